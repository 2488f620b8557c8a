"""Benchmarks: `make bench`, or `python -m bench [GROUP …]` from the top folder. See __main__."""
