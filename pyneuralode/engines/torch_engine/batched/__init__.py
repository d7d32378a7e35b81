"""Many initial-value problems side by side, one a row, each with its own times and step sizes.

Throughout, m rows of n components: states y (m, n), times t (m,) in double precision, and a function ``f(t, y)`` that
returns their slopes (m, n).
"""
