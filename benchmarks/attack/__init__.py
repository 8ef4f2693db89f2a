"""Attacks on a page, run by hand; see `python -m benchmarks.attack --help`."""
