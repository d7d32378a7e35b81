"""One Runge-Kutta step in compiled code: its stages, the state inside it, its error and its adjoint."""

from typing import NamedTuple

import numpy as np

from .control import join_estimates
from .kernels import maker, part
from .network import evaluate, pull_back
from .vectors import add_rows, aligned, copy, fill, lanes


class Scheme(NamedTuple):
    """A tableau in the dtype of the state, and room for one step.

    `n` counts the state's components, `padded` those up to a whole vector; `k` holds the stages, a row each;
    `end_stage` is the stage that is the slope at the step's end, -1 where there is none.
    """

    rows: np.ndarray
    ends: np.ndarray
    interpolant: np.ndarray
    stages: int
    order: int
    end_stage: int
    error_order: int
    n: int
    padded: int
    k: np.ndarray
    weights: np.ndarray
    point: np.ndarray


@maker
def make_scheme(rows, ends, interpolant, numbers, y0):
    padded = -(-y0.size // lanes(y0)) * lanes(y0)
    k = aligned(len(rows) * padded, y0)
    fill(k, 0)
    point = aligned(padded, y0)
    fill(point, 0)
    return Scheme(
        rows.astype(y0.dtype), ends.astype(y0.dtype), interpolant,
        numbers[0], numbers[1], numbers[2], numbers[3], y0.size, padded,
        k, np.empty(len(rows), y0.dtype), point,
    )


@part
def combine(scheme, out, y, count):
    """out = y + sum over i < count of weights[i] k[i]."""
    copy(out, y, scheme.padded)
    none, one = np.intp(0), np.intp(1)
    add_rows(out, none, scheme.weights, none, one, scheme.k, none, scheme.padded, count, scheme.padded)


@part
def move(scheme, out, y, coefficients, count, h):
    """out = y + h sum over i < count of coefficients[i] k[i]."""
    for i in range(count):
        scheme.weights[i] = coefficients[i] * h
    combine(scheme, out, y, count)


@part
def take(net, scheme, h, y, end, values, slopes, row):
    """Evaluate the stages after the first, from tape row `row` on, and the state at the end."""
    s = scheme.stages
    for i in range(1, s):
        point = end if i == s - 1 and scheme.end_stage == i else scheme.point
        move(scheme, point, y, scheme.rows[i], i, h)
        evaluate(net, point, scheme.k, i * scheme.padded, values, slopes, row + i - 1)
    if scheme.end_stage != s - 1 or s == 1:
        move(scheme, end, y, scheme.ends[0], s, h)


@part
def extend(net, scheme, h, y, end, values, slopes, row):
    """Evaluate the further stages that only the interpolant needs; `row` is the second stage's."""
    for i in range(scheme.stages, len(scheme.rows)):
        if i == scheme.end_stage:
            evaluate(net, end, scheme.k, i * scheme.padded, values, slopes, row + i - 1)
        else:
            move(scheme, scheme.point, y, scheme.rows[i], i, h)
            evaluate(net, scheme.point, scheme.k, i * scheme.padded, values, slopes, row + i - 1)


@part
def weigh(scheme, theta, h):
    """Set the weights of the stages in the interpolant at `theta`, a part of the step."""
    for i in range(len(scheme.interpolant)):
        total, power = 0.0, 1.0
        for coefficient in scheme.interpolant[i]:
            power *= theta
            total += coefficient * power
        scheme.weights[i] = total * h


@part
def error_size(scheme, h, y, end, rtol, atol):
    """Return the norm of the estimated error over the tolerance; at most 1 is good."""
    fifth, third = 0.0, 0.0
    for estimate in range(1, len(scheme.ends)):
        fill(scheme.point, 0)
        move(scheme, scheme.point, scheme.point, scheme.ends[estimate], scheme.stages, h)
        total = 0.0
        for i in range(scheme.n):
            part = scheme.point[i] / (max(abs(y[i]), abs(end[i])) * rtol[i] + atol[i])
            total += np.float64(part) * np.float64(part)
        size = np.sqrt(total / scheme.n)
        if estimate == 1:
            fifth = size
        else:
            third = size
    return fifth if len(scheme.ends) == 2 else join_estimates(fifth, third)


@part
def add_to_stages(scheme, bars, adjoint, count):
    """bars[i] += weights[i] adjoint for the stages i < count."""
    for i in range(count):
        weight = scheme.weights[i]
        for j in range(scheme.padded):
            bars[i * scheme.padded + j] += weight * adjoint[j]


@part
def pull_stage(net, scheme, h, i, bars, push, y_bar, values, slopes, row, rates):
    """Pull stage i back to the step's start and the earlier stages; `push` is its argument's cotangent."""
    pull_back(net, bars, i * scheme.padded, push, values, slopes, row, rates)
    for j in range(scheme.padded):
        y_bar[j] += push[j]
    for j in range(i):
        scheme.weights[j] = scheme.rows[i, j] * h
    add_to_stages(scheme, bars, push, i)


@part
def step_back(net, scheme, h, extended, bars, end_bar, y_bar, values, slopes, row, rates):
    """Carry the adjoint of a step's end to its start.

    On entry `bars` holds the cotangents of the stages, `y_bar` that of the start (from outputs inside the
    step) and `end_bar` that of the end. On return `y_bar` is complete up to the first stage's part, whose
    cotangent stays in the first row of `bars`.
    """
    s, push = scheme.stages, scheme.point
    if extended:
        for i in range(len(scheme.rows) - 1, s - 1, -1):
            if i == scheme.end_stage:
                pull_back(net, bars, i * scheme.padded, end_bar, values, slopes, row + i - 1, rates)
            else:
                fill(push, 0)
                pull_stage(net, scheme, h, i, bars, push, y_bar, values, slopes, row + i - 1, rates)
    whole = scheme.end_stage == s - 1 and s > 1
    if not whole:
        for j in range(scheme.padded):
            y_bar[j] += end_bar[j]
        for i in range(s):
            scheme.weights[i] = scheme.ends[0, i] * h
        add_to_stages(scheme, bars, end_bar, s)
    for i in range(s - 1, 0, -1):
        if whole and i == s - 1:
            pull_stage(net, scheme, h, i, bars, end_bar, y_bar, values, slopes, row + i - 1, rates)
        else:
            fill(push, 0)
            pull_stage(net, scheme, h, i, bars, push, y_bar, values, slopes, row + i - 1, rates)
