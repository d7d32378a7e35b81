"""Benchmarks: the same problems by us and by every peer installed, side by side, each in a process of its own.

`contenders/` holds what those processes run, as scripts: the only files that import a peer, and this package imports
none of them. `benchmarks/README.md` of the repository says how to run the benchmarks and how to read them.
"""
