"""Status codes of compiled marches, and the layout of their limits."""

# How a march ends.
DONE, BAD_START, TOO_MANY, TOO_SMALL, NOT_FINITE = range(5)
# Entries of a march's `controls`.
FIRST_STEP, MIN_STEP, MAX_STEP, MAX_STEPS, ADAPTIVE = range(5)
