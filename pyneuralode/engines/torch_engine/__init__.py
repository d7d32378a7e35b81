"""The embedded engine: pure PyTorch and Numba, installed from wheels only."""
