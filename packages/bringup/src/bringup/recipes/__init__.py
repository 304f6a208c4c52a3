"""Workloads as data: what to install, convert, patch, prove and run. Schema and the built-in recipes."""
