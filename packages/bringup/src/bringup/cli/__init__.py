"""One verb, one file. Arguments in, rooms called, report out."""
