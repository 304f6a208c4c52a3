"""One page about a run, and the same as data for other pages."""
