"""Benchmarks: pyneuralode and other libraries solve the same problems, each in a separate process.

Run them from a checkout with ``python -m benchmarks``; `README.md` explains the measurements and the results.
The package itself does not import the other libraries; only the scripts in `peers/` do.
"""
