"""Many initial-value problems solved together, one per row, each with its own times and step sizes.

There are m rows of n components: states y (m, n), times t (m,) in double precision, and a function ``f(t, y)`` that
returns their slopes (m, n).
"""
