"""The torch engine, which needs only PyTorch and Numba, both installed from wheels."""
