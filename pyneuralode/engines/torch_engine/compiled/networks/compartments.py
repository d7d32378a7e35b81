"""Kernels for the SEIR model, with the interface of .network; a record contains the state and the slope's cotangent."""

from ..compilation import inner_function
from ..llvm_codegen import at
from ..products import copy_numbers
from .plan import COLUMNS, LAYERS, RECORD, SAMPLES, SLOPES, SUMS


@inner_function
def evaluate(net, work, y, k, record):
    gamma, ratio, sigma = work[0], work[1], work[2]
    for _ in range(net[SAMPLES]):
        copy_numbers(record, y, 4)
        infection, onset, recovery = gamma * ratio * y[0] * y[2], sigma * y[1], gamma * y[2]
        k[0], k[1], k[2], k[3] = -infection, infection - onset, onset - recovery, recovery
        y, k, record = at(y, 4), at(k, 4), at(record, net[RECORD])


@inner_function
def flows(bar):
    """Return the cotangents of the infection, onset and recovery rates."""
    return bar[1] - bar[0], bar[2] - bar[1], bar[3] - bar[2]


@inner_function
def vjp(net, work, record, bar, init, out):
    gamma, ratio, sigma = work[0], work[1], work[2]
    for _ in range(net[SAMPLES]):
        copy_numbers(at(record, net[LAYERS + SLOPES]), bar, 4)
        infection, onset, recovery = flows(bar)
        out[0] = init[0] + infection * gamma * ratio * record[2]
        out[1] = init[1] + onset * sigma
        out[2] = init[2] + infection * gamma * ratio * record[0] + recovery * gamma
        out[3] = init[3]
        bar, init, out, record = at(bar, 4), at(init, 4), at(out, 4), at(record, net[RECORD])


@inner_function
def add_gradient(net, work, record, count):
    gamma, ratio = work[0], work[1]
    sums = at(work, net[LAYERS + COLUMNS + SUMS])
    for _ in range(count):
        infection, onset, recovery = flows(at(record, net[LAYERS + SLOPES]))
        susceptible, exposed, infectious = record[0], record[1], record[2]
        sums[0] += infection * ratio * susceptible * infectious + recovery * infectious
        sums[1] += infection * gamma * susceptible * infectious
        sums[2] += onset * exposed
        record = at(record, net[RECORD])
