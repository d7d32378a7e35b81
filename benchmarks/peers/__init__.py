"""The scripts that the peers' processes run: `serve.py`, and `with_LIBRARY.py` for each library.

The scripts are started by path and import each other by their bare names, so that they also run in an environment
without pyneuralode.
"""
