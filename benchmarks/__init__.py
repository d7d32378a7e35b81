"""Benchmarks: pyneuralode and other libraries solve the same problems side by side, each in a separate process.

Run them from a checkout by ``python -m benchmarks``; `README.md` explains how they measure and how to read the results.
The package itself does not import the other libraries; only the scripts in `peers/` do.
"""
