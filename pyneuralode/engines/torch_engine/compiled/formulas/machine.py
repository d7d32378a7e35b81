"""The register machine that runs programs: it evaluates the slope given by any formulas, and its derivatives."""

from typing import NamedTuple

import numpy as np

from .arrays import fill, fill_rows
from .compilation import allocating_function, inlined_function, inner_function
from .operations import curvatures, slopes, value


class Machine(NamedTuple):
    """A program and its registers.

    `time` is the register of the time, and `first` the register of the first step's result. `by_x[k]` and `by_y[k]` are
    the derivatives of step k with respect to its operands. `tangents` (registers, directions) are derivatives with
    respect to the components and, if `directions` is dim + 1, the time; `bars` and `tangent_bars` are cotangents.
    """

    steps: np.ndarray
    outputs: np.ndarray
    time: int
    first: int
    registers: np.ndarray
    by_x: np.ndarray
    by_y: np.ndarray
    tangents: np.ndarray
    bars: np.ndarray
    tangent_bars: np.ndarray
    dim: int
    parameters: int
    directions: int


@allocating_function
def make_machine(program):
    """Return the machine for a program's arrays; see `.program.Program`."""
    steps, outputs, numbers, sizes = program
    dim, parameters, directions = sizes
    time = dim + parameters
    first = time + 1 + numbers.size
    count = first + len(steps)
    registers, bars = np.zeros(count), np.zeros(count)
    for i in range(numbers.size):
        registers[time + 1 + i] = numbers[i]
    tangents, tangent_bars = np.zeros((count, directions)), np.zeros((count, directions))
    for i in range(dim):
        tangents[i, i] = 1.0
    if directions > dim:
        tangents[time, dim] = 1.0
    by_x, by_y = np.zeros(len(steps)), np.zeros(len(steps))
    return Machine(steps, outputs, time, first, registers, by_x, by_y, tangents, bars, tangent_bars, *sizes)


@inner_function
def set_parameters(machine, theta, row):
    for i in range(machine.parameters):
        machine.registers[machine.dim + i] = theta[row, i]


@inlined_function
def _set_inputs(machine, t, y, at):
    for i in range(machine.dim):
        machine.registers[i] = y[at + i]
    machine.registers[machine.time] = t


@inlined_function
def read_slope(machine, out):
    for i in range(machine.dim):
        out[i] = machine.registers[machine.outputs[i]]


@inlined_function
def evaluate(machine, t, y, at, out):
    """Write the slope (dim,) at time t and state y[at:] to `out`."""
    _set_inputs(machine, t, y, at)
    steps, registers = machine.steps, machine.registers
    for k in range(len(steps)):
        registers[machine.first + k] = value(steps[k, 0], registers[steps[k, 1]], registers[steps[k, 2]])
    read_slope(machine, out)


@inlined_function
def linearize(machine, t, y, at):
    """Run the program at time t and state y[at:], and store each step's derivatives for `differentiate` and `vjp`."""
    _set_inputs(machine, t, y, at)
    steps, registers = machine.steps, machine.registers
    for k in range(len(steps)):
        code, x, y_ = steps[k, 0], registers[steps[k, 1]], registers[steps[k, 2]]
        z = value(code, x, y_)
        registers[machine.first + k] = z
        machine.by_x[k], machine.by_y[k] = slopes(code, x, y_, z)


@inlined_function
def differentiate(machine, jacobian, ignore_zeros):
    """Write the slope's derivatives with respect to the components and the time to `jacobian` (dim, dim + 1).

    The derivatives are those at the linearization point. If `ignore_zeros`, an infinite derivative times a zero tangent
    counts as zero. Returns whether all derivatives are finite.
    """
    steps, tangents = machine.steps, machine.tangents
    for k in range(len(steps)):
        by_x, by_y = machine.by_x[k], machine.by_y[k]
        of_x, of_y, of_z = tangents[steps[k, 1]], tangents[steps[k, 2]], tangents[machine.first + k]
        for c in range(machine.directions):
            if ignore_zeros:
                of_z[c] = (by_x * of_x[c] if of_x[c] != 0 else 0.0) + (by_y * of_y[c] if of_y[c] != 0 else 0.0)
            else:
                of_z[c] = by_x * of_x[c] + by_y * of_y[c]
    total = 0.0
    for i in range(machine.dim):
        for c in range(machine.directions):
            jacobian[i, c] = tangents[machine.outputs[i], c]
            total += 0 * jacobian[i, c]
    return total == 0


@inlined_function
def vjp(machine, cotangent, y_bar, theta_bar):
    """Add vector-Jacobian products of `cotangent` (dim,) at the linearization point to y_bar (dim,) and theta_bar."""
    steps, bars = machine.steps, machine.bars
    fill(bars, 0.0)
    for i in range(machine.dim):
        bars[machine.outputs[i]] += cotangent[i]
    for k in range(len(steps) - 1, -1, -1):
        bar = bars[machine.first + k]
        if bar != 0:  # an infinite derivative times a zero cotangent counts as zero
            bars[steps[k, 1]] += machine.by_x[k] * bar
            bars[steps[k, 2]] += machine.by_y[k] * bar
    _add_input_bars(machine, y_bar, theta_bar)


@inlined_function
def _add_input_bars(machine, y_bar, theta_bar):
    for i in range(machine.dim):
        y_bar[i] += machine.bars[i]
    for i in range(machine.parameters):
        theta_bar[i] += machine.bars[machine.dim + i]


@inner_function
def vjp_with_jacobian(machine, cotangent, jacobian_bar, y_bar, theta_bar):
    """Like `vjp`, but also with a cotangent (dim, dim + 1) of the Jacobian; call `differentiate` first.

    This is reverse-mode differentiation of the tangents: a step's derivatives also have cotangents, which the step's
    second derivatives propagate to its operands.
    """
    steps, registers = machine.steps, machine.registers
    bars, tangents, tangent_bars = machine.bars, machine.tangents, machine.tangent_bars
    fill(bars, 0.0)
    fill_rows(tangent_bars, 0.0)
    for i in range(machine.dim):
        bars[machine.outputs[i]] += cotangent[i]
        for c in range(machine.directions):
            tangent_bars[machine.outputs[i], c] += jacobian_bar[i, c]
    for k in range(len(steps) - 1, -1, -1):
        x, y = steps[k, 1], steps[k, 2]
        by_x, by_y, bar = machine.by_x[k], machine.by_y[k], bars[machine.first + k]
        by_x_bar = by_y_bar = 0.0
        for c in range(machine.directions):
            tangent_bar = tangent_bars[machine.first + k, c]
            if tangent_bar != 0:
                by_x_bar += tangent_bar * tangents[x, c]
                by_y_bar += tangent_bar * tangents[y, c]
                tangent_bars[x, c] += by_x * tangent_bar
                tangent_bars[y, c] += by_y * tangent_bar
        if bar != 0:
            bars[x] += by_x * bar
            bars[y] += by_y * bar
        if by_x_bar != 0 or by_y_bar != 0:
            xx, xy, yy = curvatures(steps[k, 0], registers[x], registers[y], registers[machine.first + k])
            bars[x] += by_x_bar * xx + by_y_bar * xy
            bars[y] += by_x_bar * xy + by_y_bar * yy
    _add_input_bars(machine, y_bar, theta_bar)
