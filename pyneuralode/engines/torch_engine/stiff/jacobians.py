"""Computation of linearizations by autograd, from the user's own Jacobian, or by finite differences."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import ArgumentError
from ....fields import VectorField
from ....problem import Statistics
from ....problem.values import Layout
from ..dynamics import bind
from ..march import Slope
from .linearizations import BlockTriangularLinearization, DenseLinearization, Linearization, MatrixFreeLinearization

# The total number of entries in all Jacobians above which they are not formed and linear systems are solved by GMRES.
# It corresponds to one matrix for 3200 unknowns, or to 1000 samples of 100 unknowns each. The entries take 80 MB, and
# factorizing one such matrix takes about a second.
MATRIX_FREE_SIZE = 10_000_000
# Relative difference allowed between two difference quotients that approximate one derivative.
DIFFERENCE_TOLERANCE = 0.02


class LinearizableSlope:
    """The slope f(t, y) of a problem, for flat states, and its linearization at a point.

    The Jacobian comes from autograd: for a described field (`VectorField`) one matrix for each sample (the states along
    the last axis), for a module or callable one matrix for the whole state. A module or callable can provide more
    information through its attributes:

    - ``jacobian(t, y)`` returns the Jacobian, (*y.shape, *y.shape), or (*y.shape, y.shape[-1]) if `samplewise`;
    - ``samplewise = True``: the vectors along the last axis of y are independent samples, and any leading axes are
      accepted;
    - ``matrix_free = True``: the Jacobian is never formed; nor is any Jacobian of more than `MATRIX_FREE_SIZE` numbers.

    A field that autograd cannot differentiate, such as one written with NumPy, is differentiated by finite differences.
    """

    def __init__(self, f: Slope, dynamics: Any, parameters: dict[str, Tensor], layout: Layout, statistics: Statistics):
        self.f, self.layout, self.statistics = f, layout, statistics
        self.call, _ = bind(dynamics, parameters)
        shape = layout.shapes[0]
        is_described = isinstance(dynamics, VectorField)
        samplewise = is_described or bool(getattr(dynamics, "samplewise", False))
        if samplewise and not is_described and (layout.is_tuple or not shape):
            raise ArgumentError(
                f"samplewise is True, but y0 has shape {layout.describe()}: use (..., d), one vector for each sample."
            )
        self.unknowns = shape[-1] if samplewise else sum(part.numel() for part in layout.shapes)
        self.samplewise = samplewise and self.unknowns < shape.numel()
        numbers = self.unknowns * sum(part.numel() for part in layout.shapes)
        self.matrix_free = bool(getattr(dynamics, "matrix_free", numbers > MATRIX_FREE_SIZE))
        # A module's `jacobian` uses the module's own parameters, so it is ignored if other parameters are given.
        module = dict(dynamics.named_parameters()) if isinstance(dynamics, nn.Module) else parameters
        own = all(module[name].data_ptr() == value.data_ptr() for name, value in parameters.items())
        self.jacobian = getattr(dynamics, "jacobian", None) if own and not is_described else None
        self.is_described = is_described
        # The tensors in a callable's closure are known only when it is called; for NumPy states no gradient is needed.
        self.trains_parameters = any(p.requires_grad for p in parameters.values())
        self.holds_gradients = self.trains_parameters or not (
            is_described or isinstance(dynamics, nn.Module) or layout.numpy
        )
        # Whether f uses t in a way that autograd does not record; known after the first check.
        self.depends_on_time: bool | None = None

    def __call__(self, t: float, y: Tensor) -> Tensor:
        return self.f(t, y)

    def linearize(self, t: float, y: Tensor, h: float, time_derivative: bool = True) -> Linearization:
        """Return the linearization at (t, y), recorded if autograd records f; t + h must lie in the time span."""
        if self.statistics.nfev == 0:
            self.f(t, y)  # made without gradients, as errors of the first call are reported as errors of y0
        recording = torch.is_grad_enabled() and (
            y.requires_grad or self.trains_parameters or (self.holds_gradients and self.f(t, y).requires_grad)
        )
        with torch.enable_grad():
            at, time, dummy = _differentiation_point(t, y if recording else y.detach())
            time = time if time_derivative else time.detach()
            slope, at = self._evaluate(time, at)
            if slope is not None and slope.requires_grad:
                linear = self._by_autograd(slope, at, time, dummy, recording)
                if time_derivative and linear.time_derivative is None and not self.is_described:
                    with torch.set_grad_enabled(recording):
                        linear.time_derivative = self._unrecorded_time_derivative(t, y, h, linear.slope)
                if linear.frozen is not None and not self.samplewise:
                    # Autograd returns NaN for some smooth functions, such as where(y > 0, sqrt(y), 0) below 0.
                    by_differences = linearize_by_differences(self.f, t, y.detach(), h, linear.slope.detach())
                    if by_differences.usable:
                        by_differences.slope = linear.slope  # so that the gradient becomes NaN rather than wrong
                        return by_differences
                return linear
        with torch.no_grad():
            slope = self.f(t, y) if slope is None or self._samplewise_autograd else slope
            if self.jacobian is None:
                return linearize_by_differences(self.f, t, y, h, slope)
            return DenseLinearization(
                slope, difference_time_derivative(self.f, t, y, h, slope), self._user_jacobian(time.detach(), y)
            )

    def _evaluate(self, time: Tensor, at: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the slope (None if the field does not accept tensors with gradients) and the state used for it."""
        try:
            return self._samplewise_slopes(time, at) if self._samplewise_autograd else (self.f(time, at), at)
        except RuntimeError as error:
            if "requires grad" not in str(error):  # from torch's message for a tensor that cannot be converted to NumPy
                raise
            return None, at

    def _unrecorded_time_derivative(self, t: float, y: Tensor, h: float, slope: Tensor) -> Tensor | None:
        """Return df/dt by differences for a field such as -y + math.cos(t), whose use of t autograd does not record."""
        if self.depends_on_time is None:
            self.depends_on_time = not torch.equal(self.f(t + h, y), self.f(t, y))
        return difference_time_derivative(self.f, t, y, h, slope) if self.depends_on_time else None

    @property
    def _samplewise_autograd(self) -> bool:
        return self.samplewise and self.jacobian is None and not self.matrix_free

    def _samplewise_slopes(self, time: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and state, each (d, *state shape): one copy for each component of a sample."""
        self.statistics.nfev += 1
        at = self.layout.unpack(y).expand(self.unknowns, *self.layout.shapes[0])
        slope = self.call(time, at)
        return slope if self.is_described else slope.clone(), at  # a user's function may overwrite its result

    def _by_autograd(self, slope: Tensor, at: Tensor, time: Tensor, dummy: Tensor, recording: bool) -> Linearization:
        flat = slope[0].reshape(-1) if self._samplewise_autograd else slope
        value = flat if recording else flat.detach()
        if self.jacobian is None and not self.matrix_free and not self.samplewise:
            units = torch.eye(len(flat), dtype=at.dtype, device=at.device)
            inputs = (at, time) if time.requires_grad else (at,)
            jacobian, *by_time = torch.autograd.grad(
                flat, inputs, units, create_graph=recording, is_grads_batched=True, allow_unused=True
            )
            jacobian = torch.zeros_like(units) if jacobian is None else jacobian
            return DenseLinearization(value, by_time[0] if by_time else None, jacobian)
        time_derivative = _time_derivative(flat, time, dummy, recording)
        if self.jacobian is not None:
            jacobian = self._user_jacobian(time, at if recording else at.detach())
            return DenseLinearization(value, time_derivative, jacobian if recording else jacobian.detach())
        if self.matrix_free:
            return MatrixFreeLinearization(flat, time_derivative, at, dummy, recording)
        d = self.unknowns
        units = torch.eye(d, dtype=at.dtype, device=at.device)
        units = units.view(d, *[1] * (at.ndim - 2), d).expand(at.shape)
        (rows,) = torch.autograd.grad(slope, at, units, create_graph=recording, materialize_grads=True)
        return DenseLinearization(value, time_derivative, rows.reshape(d, -1, d).transpose(0, 1))

    def _user_jacobian(self, time: Tensor, at: Tensor) -> Tensor:
        state = self.layout.unpack(at)
        jacobian = self.jacobian(time, state)
        shape = self.layout.shapes[0]
        expected = (*shape, shape[-1]) if self.samplewise else (*shape, *shape)
        if not isinstance(jacobian, Tensor) or self.layout.is_tuple or tuple(jacobian.shape) != expected:
            given = tuple(jacobian.shape) if isinstance(jacobian, Tensor) else type(jacobian).__name__
            raise ArgumentError(
                f"jacobian returned {given} for a state of shape {self.layout.describe()}: return a tensor of shape "
                f"{expected}."
            )
        square = (-1, shape[-1], shape[-1]) if self.samplewise else (at.numel(), -1)
        return jacobian.reshape(square).clone()  # the user's function may overwrite its result at the next call


def linearize(f: Slope, t: float, y: Tensor, h: float, time_derivative: bool = True) -> Linearization:
    """Return the linearization of f at (t, y), from `f.linearize` if f has this method, else by finite differences."""
    own = getattr(f, "linearize", None)
    return linearize_by_differences(f, t, y, h, f(t, y)) if own is None else own(t, y, h, time_derivative)


@torch.no_grad()
def linearize_by_differences(
    f: Slope, t: float, y: Tensor, h: float, slope: Tensor, quadratures: int = 0
) -> Linearization:
    """Return the linearization by forward differences; f does not depend on the last `quadratures` components of y.

    It is usable if reducing each increment of y to a quarter also reduces the change in f to a quarter, which is not
    the case for sqrt(y) at y = 0.
    """
    time_derivative, dynamic = difference_time_derivative(f, t, y, h, slope), len(y) - quadratures
    # A component near zero is scaled by its change in the step, as sqrt(y) appears linear over too short a difference.
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
    linear_enough = _changes_linearly(
        f(t, y + sizes / 4) - slope, parts.sum(1), parts.abs().sum(1), slope.abs() + terms
    )
    if not quadratures:
        return DenseLinearization(slope, time_derivative, jacobian, linear_enough)
    core = DenseLinearization(slope[:dynamic], None, jacobian[:dynamic], linear_enough)
    return BlockTriangularLinearization(slope, time_derivative, core, lambda x: torch.mv(jacobian[dynamic:], x))


def difference_time_derivative(f: Slope, t: float, y: Tensor, h: float, slope: Tensor) -> Tensor:
    """Return df/dt by a forward difference; NaN if the derivative does not exist, as for sqrt(t) at t = 0."""
    delta = math.copysign(min(math.sqrt(torch.finfo(y.dtype).eps) * max(abs(t), abs(h)), abs(h)), h)
    later, sooner = t + delta, t + delta / 4
    time_derivative = (f(later, y) - slope) / (later - t)
    part = time_derivative.detach() * (sooner - t)
    with torch.no_grad():
        linear_enough = _changes_linearly(f(sooner, y) - slope, part, part.abs(), slope.abs())
    return time_derivative if linear_enough else torch.full_like(time_derivative, math.nan)


def _changes_linearly(change: Tensor, expected: Tensor, moved: Tensor, terms: Tensor) -> bool:
    """Return whether f changes as a difference quotient predicts; `terms` is the magnitude of rounded terms in f."""
    noise = 16 * torch.finfo(change.dtype).eps * terms.detach()
    return bool(((change - expected).abs() <= DIFFERENCE_TOLERANCE * moved + noise).all())


def _differentiation_point(t: float, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the state (n,), the time () and a dummy vector (n,), with respect to which f is differentiated.

    All are parts of one tensor: autograd traverses the graph back to the oldest of its inputs, and separate leaves
    would be treated as older than all earlier steps, so that each step would take longer than the previous one.
    """
    n = len(y)
    whole = torch.cat([y, y.new_zeros(n), y.new_full((1,), t)])
    whole = whole if whole.requires_grad else whole.requires_grad_()
    return whole[:n], whole[-1], whole[n : 2 * n]


def _time_derivative(slope: Tensor, time: Tensor, dummy: Tensor, recording: bool) -> Tensor | None:
    """Return df/dt by two reverse-mode passes, or None if the slope does not depend on time."""
    if not time.requires_grad:
        return None
    (transposed_product,) = torch.autograd.grad(slope, time, dummy, create_graph=True, allow_unused=True)
    if transposed_product is None or not transposed_product.requires_grad:
        return None
    return torch.autograd.grad(transposed_product, dummy, retain_graph=True, create_graph=recording)[0]
