"""The numbers by which compiled marches are told their limits, and tell how they ended."""

# How a march ends.
DONE, BAD_START, TOO_MANY, TOO_SMALL, NOT_FINITE = range(5)
# Entries of a march's `controls`.
FIRST_STEP, MIN_STEP, MAX_STEP, MAX_STEPS, ADAPTIVE = range(5)
