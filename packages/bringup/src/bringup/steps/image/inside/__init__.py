"""Programs that the Dockerfile runs with the base's own Python: standard library alone, Python 3.8 syntax."""
