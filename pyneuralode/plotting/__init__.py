"""Figures: each function draws given results and returns a matplotlib Figure, without computing any results."""
