"""Status codes of compiled solves, and the layout of their `controls` array."""

# The status at the end of a solve.
DONE, BAD_START, TOO_MANY, TOO_SMALL, NOT_FINITE = range(5)
# Indices into the `controls` array of a solve.
FIRST_STEP, MIN_STEP, MAX_STEP, MAX_STEPS, ADAPTIVE = range(5)
