"""One verb, one file. `main.py` holds the table; the rooms are imported when a verb runs."""
