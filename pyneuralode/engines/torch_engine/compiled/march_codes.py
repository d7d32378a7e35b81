"""Status codes of compiled solves, and the layout of their limits."""

# The status at the end of a solve.
DONE, BAD_START, TOO_MANY, TOO_SMALL, NOT_FINITE = range(5)
# Entries of the `controls` of a solve.
FIRST_STEP, MIN_STEP, MAX_STEP, MAX_STEPS, ADAPTIVE = range(5)
