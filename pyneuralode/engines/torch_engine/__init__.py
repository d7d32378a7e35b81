"""The embedded engine: everything in PyTorch, from wheels alone."""
