"""Benchmarks: pyneuralode and other libraries solve the same problems side by side, each in a process of its own.

Run them from a checkout by ``python -m benchmarks``; `README.md` says how they measure and how to read them.
The package imports no other library: that is left to the scripts in `peers/`.
"""
