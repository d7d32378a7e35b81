"""Figures: each function draws the results it is given and returns a matplotlib Figure; it computes nothing."""
