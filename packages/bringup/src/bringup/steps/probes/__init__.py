"""Single files of standard library + torch, Python 3.8 syntax, run by a target's own interpreter."""
