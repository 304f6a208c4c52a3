"""Reading a pickled model without running it; converting and rebuilding it."""
