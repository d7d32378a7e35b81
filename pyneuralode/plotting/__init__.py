"""Figures: each function takes results and returns a matplotlib Figure; nothing is computed or trained here."""
