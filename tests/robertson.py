"""Robertson's reaction as functions of NumPy arrays, in three forms, and its state at the end."""

import numpy as np

# Hairer and Wanner's problem ROBER; the state at t = 1e11 is from Mazzia's test set for IVP solvers.
ROBERTSON_END = np.array([0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050])


def rates(y):
    return 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2


def robertson(t, y):
    slow, back, fast = rates(y)
    return np.array([back - slow, slow - back - fast, fast])


def robertson_mass(t, y):
    return np.append(robertson(t, y)[:2], y.sum() - 1)


def robertson_residual(t, y, dy):
    return np.append(robertson(t, y)[:2] - dy[:2], y.sum() - 1)
