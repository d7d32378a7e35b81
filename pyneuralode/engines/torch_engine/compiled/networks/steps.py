"""One Runge-Kutta step in compiled code: its stages, states inside the step, its error estimate and its adjoint."""

from typing import NamedTuple

import numpy as np

from ..compilation import inner_function
from ..llvm_codegen import at
from ..products import column, copy_numbers
from ..step_control import combine_dop853_errors
from . import plan
from .network import evaluate, vjp


class NetworkScheme(NamedTuple):
    """A tableau, and the working memory of one step.

    The state has n components; in memory it occupies `lead` numbers (`vectors` vectors). `end_stage` is the stage that
    equals the slope at the step's end, or -1 if there is none. Each row of `forward_weights` contains the weights of
    the earlier stages in the argument of a stage, in the end, or in an error estimate; `backward_weights` contains the
    tables of plan._backward_weights, for a step without and with the interpolant's stages. `weights` and `weights_back`
    are `forward_weights` and `backward_weights` multiplied by the step size; `mix` contains the weights of the stages
    in a state inside the step. `k` contains the stages, `bars` their cotangents, and `argument_bars` the cotangents of
    the end and of the stages' arguments, from the last stage to the first.
    """

    stages: int
    total: int
    end_stage: int
    order: int
    error_order: int
    estimates: int
    degree: int
    n: int
    lead: int
    vectors: int
    forward_weights: object
    backward_weights: object
    interpolant: object
    weights: object
    weights_back: object
    mix: object
    k: object
    bars: object
    argument_bars: object
    point: object
    zeros: object


@inner_function
def make_scheme(table, coefficients, interpolant, work, lanes):
    total, count = table[plan.ALL_STAGES], table[plan.ALL_STAGES] + 1 + table[plan.ESTIMATES]
    return NetworkScheme(
        table[plan.STAGES], total, table[plan.END_STAGE], table[plan.ORDER], table[plan.ERROR_ORDER],
        table[plan.ESTIMATES], table[plan.DEGREE], table[plan.N], table[plan.LEAD], table[plan.LEAD] // lanes,
        coefficients, at(coefficients, count * total), interpolant, at(work, table[plan.WEIGHTS]),
        at(work, table[plan.WEIGHTS_BACK]), at(work, table[plan.MIX]), at(work, table[plan.K]),
        at(work, table[plan.BARS]), at(work, table[plan.ARGUMENT_BARS]), at(work, table[plan.POINT]),
        at(work, table[plan.ZEROS]),
    )  # fmt: skip


@inner_function
def scale(weights, coefficients, count, h):
    for i in range(count):
        weights[i] = coefficients[i] * h


@inner_function
def combine(scheme, out, init, weights, columns, count):
    """Set out = init + the sum over i < count of weights[i] columns[i]."""
    column(out, init, columns, scheme.lead, weights, 1, count, scheme.vectors)


@inner_function
def advance(net, scheme, work, h, y, end, record, size):
    """Evaluate the stages after the first, each with a record of `size` numbers, and compute the state at the end."""
    s, total = scheme.stages, scheme.total
    scale(scheme.weights, scheme.forward_weights, (total + 1 + scheme.estimates) * total, h)
    for i in range(1, s):
        point = end if i == scheme.end_stage else scheme.point
        combine(scheme, point, y, at(scheme.weights, i * total), scheme.k, i)
        evaluate(net, work, point, at(scheme.k, i * scheme.lead), at(record, (i - 1) * size))
    if scheme.end_stage != s - 1 or s == 1:
        combine(scheme, end, y, at(scheme.weights, total * total), scheme.k, s)


@inner_function
def extend(net, scheme, work, y, end, record, size):
    """Evaluate the extra stages that only the interpolant needs; `record` points to the record of the second stage."""
    for i in range(scheme.stages, scheme.total):
        point = end if i == scheme.end_stage else scheme.point
        if i != scheme.end_stage:
            combine(scheme, point, y, at(scheme.weights, i * scheme.total), scheme.k, i)
        evaluate(net, work, point, at(scheme.k, i * scheme.lead), at(record, (i - 1) * size))


@inner_function
def set_interpolant_weights(scheme, theta, h):
    """Set the weights of the stages in the interpolated state at `theta`, a fraction of the step."""
    for i in range(scheme.total):
        total, power = 0.0, 1.0
        for q in range(scheme.degree):
            power *= theta
            total += scheme.interpolant[i * scheme.degree + q] * power
        scheme.mix[i] = total * h


@inner_function
def error_size(scheme, y, end, rtol, atol):
    """Return the norm of the estimated error divided by the tolerance; a step is accepted if it is at most 1."""
    error = 0.0
    for estimate in range(1, scheme.estimates + 1):
        weights = at(scheme.weights, (scheme.total + estimate) * scheme.total)
        combine(scheme, scheme.point, scheme.zeros, weights, scheme.k, scheme.stages)
        total = 0.0
        for i in range(scheme.n):
            part = scheme.point[i] / (max(abs(y[i]), abs(end[i])) * rtol[i] + atol[i])
            total += np.float64(part) * np.float64(part)
        size = np.sqrt(total / scheme.n)
        error = size if estimate == 1 else combine_dop853_errors(error, size)
    return error


@inner_function
def step_back(net, scheme, work, h, extended, start, record, size):
    """Propagate the adjoint from the end of a step to its start; `record` points to the record of the second stage.

    On entry, the first of `argument_bars` is the cotangent of the end; `start` and `bars` contain the contributions of
    outputs inside the step to the cotangents of the start and of the stages. On return, `start` is complete except for
    the contribution of the first stage, whose cotangent is the first of `bars`.
    """
    total, lead, argument_bars = scheme.total, scheme.lead, scheme.argument_bars
    count = total if extended else scheme.stages
    table = total * (total + 1)
    scale(scheme.weights_back, at(scheme.backward_weights, table) if extended else scheme.backward_weights, table, h)
    for i in range(count - 1, -1, -1):
        bar, own = at(scheme.bars, i * lead), at(argument_bars, (count - i) * lead)
        combine(scheme, bar, bar, at(scheme.weights_back, i * (total + 1)), argument_bars, count - i)
        if i == 0:
            break
        stage = at(record, (i - 1) * size)
        if i == scheme.end_stage:
            vjp(net, work, stage, bar, argument_bars, argument_bars)
            copy_numbers(own, scheme.zeros, lead)
        else:
            vjp(net, work, stage, bar, scheme.zeros, own)
    for i in range(count):
        push = at(argument_bars, i * lead)
        for j in range(lead):
            start[j] += push[j]
