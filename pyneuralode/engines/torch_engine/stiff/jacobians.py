"""From a problem's field to its linearizations: how its Jacobian is had."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import ArgumentError
from ....fields import VectorField
from ....problem import Statistics
from ...state import Layout
from ..dynamics import bind
from ..march import Slope
from .linearizations import DenseLinearization, Linearization, MatrixFreeLinearization, QuadratureLinearization

# Numbers in all Jacobians together beyond which they are not formed and linear systems are solved by GMRES: 3200
# unknowns in one matrix, or 1000 samples of 100 each. They take 80 MB; one such matrix factorizes in about a second.
LARGE = 10_000_000
# Part of a change by which two difference quotients may differ where they stand for a derivative.
STRAIGHT = 0.02


class LinearizableSlope:
    """The flat slope f(t, y) of a problem, and its linearization at a point.

    The Jacobian comes from autograd: for a described field one matrix for each sample (the states along the last
    axis), for a module or callable one of the whole state. A module or callable can know more by its attributes:

    - ``jacobian(t, y)`` returns it, of shape (*y.shape, *y.shape), with `samplewise` (*y.shape, y.shape[-1]);
    - ``samplewise = True``: it treats the vectors along the last axis of y one by one and takes any leading axes;
    - ``matrix_free = True``: its Jacobian is never formed, as by itself none of more than `LARGE` numbers is.

    A field that autograd does not see through, of NumPy say, is differentiated by differences.
    """

    def __init__(self, f: Slope, dynamics: Any, parameters: dict[str, Tensor], layout: Layout, statistics: Statistics):
        self.f, self.layout, self.statistics = f, layout, statistics
        self.call, _ = bind(dynamics, parameters)
        shape = layout.shapes[0]
        described = isinstance(dynamics, VectorField)
        samplewise = described or bool(getattr(dynamics, "samplewise", False))
        if samplewise and not described and (layout.is_tuple or not shape):
            raise ArgumentError(
                f"samplewise is True and y0 {layout.describe()}: give y0 of shape (..., d), one vector for each sample."
            )
        self.unknowns = shape[-1] if samplewise else sum(part.numel() for part in layout.shapes)
        self.samplewise = samplewise and self.unknowns < shape.numel()
        numbers = self.unknowns * sum(part.numel() for part in layout.shapes)
        self.matrix_free = bool(getattr(dynamics, "matrix_free", numbers > LARGE))
        # A module's jacobian computes with its own parameters, whatever others are given.
        module = dict(dynamics.named_parameters()) if isinstance(dynamics, nn.Module) else parameters
        own = all(module[name].data_ptr() == value.data_ptr() for name, value in parameters.items())
        self.jacobian = getattr(dynamics, "jacobian", None) if own and not described else None
        self.described = described
        # What a callable holds is known only when it is called; where NumPy is delivered nobody asks for gradients.
        self.trains = any(p.requires_grad for p in parameters.values())
        self.holds_gradients = self.trains or not (described or isinstance(dynamics, nn.Module) or layout.numpy)
        self.reads_clock: bool | None = None  # whether it uses t in a way that autograd does not see, once known

    def __call__(self, t: float, y: Tensor) -> Tensor:
        return self.f(t, y)

    def linearize(self, t: float, y: Tensor, h: float, time_derivative: bool = True) -> Linearization:
        """Return f near (t, y), recorded where autograd records f; `h` is a step inside the span, for differences."""
        if self.statistics.nfev == 0:
            self.f(t, y)  # the first call, whose errors are told as y0's, is one without gradients
        recording = torch.is_grad_enabled() and (
            y.requires_grad or self.trains or (self.holds_gradients and self.f(t, y).requires_grad)
        )
        with torch.enable_grad():
            at, time, dummy = _point(t, y if recording else y.detach())
            time = time if time_derivative else time.detach()
            slope, at = self._evaluate(time, at)
            if slope is not None and slope.requires_grad:
                linear = self._by_autograd(slope, at, time, dummy, recording)
                if time_derivative and linear.time_derivative is None and not self.described:
                    with torch.set_grad_enabled(recording):
                        linear.time_derivative = self._unrecorded_time_derivative(t, y, h, linear.slope)
                if linear.still is not None and not self.samplewise:
                    # Autograd says nan of what is smooth, such as where(y > 0, sqrt(y), 0) below 0; differences do not.
                    by_differences = linearize_by_differences(self.f, t, y.detach(), h, linear.slope.detach())
                    if by_differences.usable:
                        by_differences.slope = linear.slope  # through which the gradient becomes nan, not wrong
                        return by_differences
                return linear
        with torch.no_grad():
            slope = self.f(t, y) if slope is None or self._by_samples else slope
            if self.jacobian is None:
                return linearize_by_differences(self.f, t, y, h, slope)
            return DenseLinearization(
                slope, difference_time_derivative(self.f, t, y, h, slope), self._given(time.detach(), y)
            )

    def _evaluate(self, time: Tensor, at: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the slope, or none where the field does not take tensors with gradients, and the state it is of."""
        try:
            return self._samples(time, at) if self._by_samples else (self.f(time, at), at)
        except RuntimeError as error:
            if "requires grad" not in str(error):  # torch's word for a tensor that NumPy cannot take
                raise
            return None, at

    def _unrecorded_time_derivative(self, t: float, y: Tensor, h: float, slope: Tensor) -> Tensor | None:
        """Return df/dt by differences for a field such as -y + math.cos(t), which autograd takes for autonomous."""
        if self.reads_clock is None:
            self.reads_clock = not torch.equal(self.f(t + h, y), self.f(t, y))
        return difference_time_derivative(self.f, t, y, h, slope) if self.reads_clock else None

    @property
    def _by_samples(self) -> bool:
        return self.samplewise and self.jacobian is None and not self.matrix_free

    def _samples(self, time: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and state, each (d, *state shape): as many copies as a sample has components."""
        self.statistics.nfev += 1
        at = self.layout.unpack(y).expand(self.unknowns, *self.layout.shapes[0])
        slope = self.call(time, at)
        return slope if self.described else slope.clone(), at  # a user's function may fill it again at its next call

    def _by_autograd(self, slope: Tensor, at: Tensor, time: Tensor, dummy: Tensor, recording: bool) -> Linearization:
        if self.jacobian is not None:
            jacobian = self._given(time, at if recording else at.detach())
            time_derivative = _time_derivative(slope, time, dummy, recording)
        elif self.matrix_free:
            return MatrixFreeLinearization(slope, _time_derivative(slope, time, dummy, recording), at, dummy, recording)
        elif self.samplewise:
            d = self.unknowns
            units = torch.eye(d, dtype=at.dtype, device=at.device)
            units = units.view(d, *[1] * (at.ndim - 2), d).expand(at.shape)
            (rows,) = torch.autograd.grad(
                slope, at, units, create_graph=recording, retain_graph=True, materialize_grads=True
            )
            jacobian = rows.reshape(d, -1, d).transpose(0, 1)
            slope = slope[0].reshape(-1)
            time_derivative = _time_derivative(slope, time, dummy, recording)
        else:
            units = torch.eye(len(slope), dtype=at.dtype, device=at.device)
            inputs = (at, time) if time.requires_grad else (at,)
            jacobian, *time_derivatives = torch.autograd.grad(
                slope, inputs, units, create_graph=recording, is_grads_batched=True, allow_unused=True
            )
            time_derivative = time_derivatives[0] if time_derivatives else None
            jacobian = torch.zeros_like(units) if jacobian is None else jacobian
        return DenseLinearization(
            _kept(slope, recording), _kept(time_derivative, recording), _kept(jacobian, recording)
        )

    def _given(self, time: Tensor, at: Tensor) -> Tensor:
        state = self.layout.unpack(at)
        jacobian = self.jacobian(time, state)
        shape = self.layout.shapes[0]
        expected = (*shape, shape[-1]) if self.samplewise else (*shape, *shape)
        if not isinstance(jacobian, Tensor) or self.layout.is_tuple or tuple(jacobian.shape) != expected:
            given = tuple(jacobian.shape) if isinstance(jacobian, Tensor) else type(jacobian).__name__
            raise ArgumentError(
                f"jacobian returned {given} for a state of shape {self.layout.describe()}: return a tensor {expected}."
            )
        square = (-1, shape[-1], shape[-1]) if self.samplewise else (at.numel(), -1)
        return jacobian.reshape(square).clone()  # the user's function may fill it again at its next call


def linearize(f: Slope, t: float, y: Tensor, h: float, time_derivative: bool = True) -> Linearization:
    """Return f near (t, y), by its own method if it has one and by differences otherwise; `time_derivative`: with df/dt."""
    own = getattr(f, "linearize", None)
    return linearize_by_differences(f, t, y, h, f(t, y)) if own is None else own(t, y, h, time_derivative)


@torch.no_grad()
def linearize_by_differences(
    f: Slope, t: float, y: Tensor, h: float, slope: Tensor, quadratures: int = 0
) -> Linearization:
    """Return f near (t, y) by forward differences; the last `quadratures` components are such as nothing depends on.

    They are usable where a quarter of the differences changes f by a quarter, unlike that of sqrt(y) at y = 0.
    """
    time_derivative, dynamic = difference_time_derivative(f, t, y, h, slope), len(y) - quadratures
    # What is next to zero has the size that the step would give it: sqrt(y) looks straight from too near.
    scale = torch.where(y.abs() < 1e-5, (h * slope).abs().clamp_min(1e-5), y.abs())
    sizes = math.sqrt(torch.finfo(y.dtype).eps) * scale
    sizes[dynamic:] = 0
    columns = []
    for j in range(dynamic):
        moved = y.clone()
        moved[j] += sizes[j]
        columns.append((f(t, moved) - slope) / (moved[j] - y[j]))
    jacobian = torch.stack(columns, dim=1)
    parts, terms = jacobian * (sizes[:dynamic] / 4), jacobian.abs() @ y[:dynamic].abs()
    straight = _straight(f(t, y + sizes / 4) - slope, parts.sum(1), parts.abs().sum(1), slope.abs() + terms)
    if not quadratures:
        return DenseLinearization(slope, time_derivative, jacobian, straight)
    core = DenseLinearization(slope[:dynamic], None, jacobian[:dynamic], straight)
    return QuadratureLinearization(slope, time_derivative, core, lambda x: torch.mv(jacobian[dynamic:], x))


def difference_time_derivative(f: Slope, t: float, y: Tensor, h: float, slope: Tensor) -> Tensor:
    """Return df/dt by a forward difference; nan where it is no derivative, as that of sqrt(t) at t = 0."""
    delta = math.copysign(min(math.sqrt(torch.finfo(y.dtype).eps) * max(abs(t), abs(h)), abs(h)), h)
    later, sooner = t + delta, t + delta / 4
    time_derivative = (f(later, y) - slope) / (later - t)
    part = time_derivative.detach() * (sooner - t)
    with torch.no_grad():
        straight = _straight(f(sooner, y) - slope, part, part.abs(), slope.abs())
    return time_derivative if straight else torch.full_like(time_derivative, math.nan)


def _straight(change: Tensor, expected: Tensor, moved: Tensor, terms: Tensor) -> bool:
    """Return whether f changes as a difference quotient says; `terms` are what its values were rounded at."""
    noise = 16 * torch.finfo(change.dtype).eps * terms.detach()
    return bool(((change - expected).abs() <= STRAIGHT * moved + noise).all())


def _point(t: float, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the state (n,), the time () and a dummy (n,), to be differentiated by.

    All are parts of one tensor: autograd walks down to the oldest of what it differentiates by, and leaves would count
    as older than all earlier steps, so that each step took longer than the one before.
    """
    n = len(y)
    whole = torch.cat([y, y.new_zeros(n), y.new_full((1,), t)])
    whole = whole if whole.requires_grad else whole.requires_grad_()
    return whole[:n], whole[-1], whole[n : 2 * n]


def _time_derivative(slope: Tensor, time: Tensor, dummy: Tensor, recording: bool) -> Tensor | None:
    """Return df/dt by a reverse pass of a reverse pass, or None where the slope does not depend on the time."""
    if not time.requires_grad:
        return None
    (pulled,) = torch.autograd.grad(slope, time, dummy, create_graph=True, allow_unused=True)
    if pulled is None or not pulled.requires_grad:
        return None
    return torch.autograd.grad(pulled, dummy, retain_graph=True, create_graph=recording)[0]


def _kept(x: Tensor | None, recording: bool) -> Tensor | None:
    return x if recording or x is None else x.detach()
