"""A vector field near one point: its slope, its Jacobian J, and solves with I - scale J, as matrices or matrix-free."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...state import all_finite
from ..once_differentiable import once_differentiable

# Restarts of GMRES, vectors kept between them, and the precision that suffices inside an iteration of Newton's.
RESTARTS, VECTORS, ROUGH = 10, 100, 1e-3


class ShiftedSolver(Protocol):
    """I - scale J, ready to be solved with; never recorded by autograd."""

    failure: str | None

    def solve(self, right: Tensor) -> Tensor: ...

    def solve_transposed(self, right: Tensor) -> Tensor: ...


class Linearization(Protocol):
    """f near (t, y): the slope (n,), its derivative `time_derivative` (n,) with respect to t (None: zero), and the Jacobian."""

    slope: Tensor
    time_derivative: Tensor | None
    recorded: bool  # by autograd
    usable: bool  # whether J and `time_derivative` say how f changes; no step is built on others
    still: Tensor | None  # which components (n,) a step must not move, since J has no columns for them

    def product(self, x: Tensor) -> Tensor:
        """Return J x (n,), differentiable where autograd recorded the linearization."""

    def shifted(self, scale: float, rough: bool = False) -> ShiftedSolver:
        """Return I - scale J; `rough`: to a few digits, where what it solves is corrected anyway."""

    def bound(self) -> float:
        """Return a bound on the eigenvalues of J."""


class DenseLinearization:
    """A Jacobian (n, n), or one (N, d, d) of N samples that do not know of each other.

    Columns that are not finite, such as that of sqrt(y) at y = 0, are left out. `straight` says that J is a derivative.
    """

    def __init__(self, slope: Tensor, time_derivative: Tensor | None, jacobian: Tensor, straight: bool = True):
        self.slope, self.time_derivative, self.straight, self.still = slope, time_derivative, straight, None
        if not all_finite(jacobian):
            columns = ~torch.isfinite(jacobian).all(-2)
            self.still, jacobian = columns.reshape(-1), jacobian.masked_fill(columns[..., None, :], 0.0)
        self.jacobian, self.recorded = jacobian, jacobian.requires_grad

    @property
    def usable(self) -> bool:
        return self.straight and (self.time_derivative is None or all_finite(self.time_derivative))

    def product(self, x: Tensor) -> Tensor:
        return torch.matmul(self.jacobian, x.view(*self.jacobian.shape[:-1], 1)).view(-1)

    def shifted(self, scale: float, rough: bool = False) -> LUSolver:
        return LUSolver(self.jacobian.detach(), scale)

    def bound(self) -> float:
        return float(self.jacobian.detach().abs().sum(-1).max())


class LUSolver:
    """The factors of I - scale J. Where it is singular solves are not finite, and the step with them is rejected."""

    failure = None

    def __init__(self, jacobian: Tensor, scale: float):
        matrix = jacobian * -scale
        matrix.diagonal(dim1=-2, dim2=-1).add_(1.0)
        self.factors, self.pivots, _ = torch.linalg.lu_factor_ex(matrix)
        self.columns = (*matrix.shape[:-1], 1)

    def solve(self, right: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.factors, self.pivots, right.reshape(self.columns)).view(-1)

    def solve_transposed(self, right: Tensor) -> Tensor:
        columns = right.reshape(self.columns)
        return torch.linalg.lu_solve(self.factors, self.pivots, columns, adjoint=True).view(-1)


class MatrixFreeLinearization:
    """A Jacobian known by its products only, each one pass of autograd through the field.

    Two reverse passes make a forward one: `pulled` is J^T of a dummy, and its derivative along the dummy is J x.
    """

    still = None

    def __init__(self, slope: Tensor, time_derivative: Tensor | None, at: Tensor, dummy: Tensor, recording: bool):
        self.slope, self.time_derivative, self.at, self.recorded = (
            slope if recording else slope.detach(),
            time_derivative,
            at,
            recording,
        )
        self.graph, self.dummy = slope, dummy
        with torch.enable_grad():
            (self.pulled,) = torch.autograd.grad(slope, at, self.dummy, create_graph=True, materialize_grads=True)
        self.usable = all_finite(self.product(torch.ones_like(slope))) and (
            time_derivative is None or all_finite(time_derivative)
        )

    def product(self, x: Tensor) -> Tensor:
        if not self.pulled.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(
            self.pulled, self.dummy, x, retain_graph=True, create_graph=self.recorded and torch.is_grad_enabled()
        )[0]

    def product_transposed(self, x: Tensor) -> Tensor:
        return torch.autograd.grad(self.graph, self.at, x, retain_graph=True, materialize_grads=True)[0]

    def shifted(self, scale: float, rough: bool = False) -> GMRESSolver:
        return GMRESSolver(self, scale, rough)

    def bound(self) -> float:
        """Estimate the largest eigenvalue by a few steps of the power method."""
        x = torch.ones_like(self.slope.detach())
        for _ in range(5):
            x = self.product(x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(x.dtype).tiny)).detach()
        return float(torch.linalg.vector_norm(x))


class GMRESSolver:
    """I - scale J, solved with by GMRES (Saad and Schultz 1986), as it is: without a preconditioner."""

    def __init__(self, linear: MatrixFreeLinearization, scale: float, rough: bool):
        self.linear, self.scale, self.precision = linear, scale, ROUGH if rough else None
        self.failure: str | None = None

    def solve(self, right: Tensor) -> Tensor:
        return self._gmres(lambda x: x - self.scale * self.linear.product(x), right)

    def solve_transposed(self, right: Tensor) -> Tensor:
        return self._gmres(lambda x: x - self.scale * self.linear.product_transposed(x), right)

    @torch.no_grad()
    def _gmres(self, apply: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        # Else far below any tolerance of the solve, so that a method's order does not feel it.
        target = (self.precision or torch.finfo(right.dtype).eps ** 0.75) * float(torch.linalg.vector_norm(right))
        x, residual = torch.zeros_like(right), right
        for _ in range(RESTARTS):
            x = x + _correction(apply, residual, target)
            residual = right - apply(x)
            size = float(torch.linalg.vector_norm(residual))
            if size <= 2 * target:
                return x
            if not math.isfinite(size):
                break
        self.failure = "GMRES did not solve its linear systems"
        return x


def _correction(apply: Callable[[Tensor], Tensor], residual: Tensor, target: float) -> Tensor:
    """Return the correction from at most `VECTORS` products that makes the residual smallest."""
    size = float(torch.linalg.vector_norm(residual))
    if not 0 < size < math.inf:
        return residual
    basis = residual.new_empty(VECTORS + 1, len(residual))
    basis[0] = residual / size
    triangle, right, rotations = np.zeros((VECTORS, VECTORS)), [size], []
    for j in range(VECTORS):
        vector, space = apply(basis[j]), basis[: j + 1]
        parts = space @ vector
        vector = torch.addmv(vector, space.t(), parts, alpha=-1)
        again = space @ vector  # what rounding left
        vector = torch.addmv(vector, space.t(), again, alpha=-1)
        *column, length = torch.cat([parts + again, torch.linalg.vector_norm(vector)[None]]).tolist()
        for i, (c, s) in enumerate(rotations):
            column[i : i + 2] = c * column[i] + s * column[i + 1], c * column[i + 1] - s * column[i]
        radius = math.hypot(column[j], length)
        c, s = (column[j] / radius, length / radius) if radius else (1.0, 0.0)
        rotations.append((c, s))
        column[j] = radius
        triangle[: j + 1, j] = column
        right[j:] = c * right[j], -s * right[j]
        if abs(right[-1]) <= target or not length > 0:
            break
        basis[j + 1] = vector / length
    weights = np.linalg.lstsq(triangle[: j + 1, : j + 1], np.array(right[: j + 1]), rcond=None)[0]
    return torch.as_tensor(weights, dtype=residual.dtype, device=residual.device) @ basis[: j + 1]


class QuadratureLinearization:
    """A field whose last components are quadratures: nothing depends on them, and they are solved for last.

    `core` is the field without them, and `below` gives what their slopes have of the others' J x.
    """

    recorded, still = False, None

    def __init__(
        self, slope: Tensor, time_derivative: Tensor | None, core: Linearization, below: Callable[[Tensor], Tensor]
    ):
        self.slope, self.time_derivative, self.core, self.below = slope, time_derivative, core, below
        self.usable = core.usable and core.still is None and (time_derivative is None or all_finite(time_derivative))

    def shifted(self, scale: float, rough: bool = False) -> QuadratureSolver:
        return QuadratureSolver(self, scale, rough)

    def bound(self) -> float:
        return self.core.bound()


class QuadratureSolver:
    def __init__(self, linear: QuadratureLinearization, scale: float, rough: bool):
        self.core, self.below, self.scale = linear.core.shifted(scale, rough), linear.below, scale
        self.size = len(linear.core.slope)

    @property
    def failure(self) -> str | None:
        return self.core.failure

    def solve(self, right: Tensor) -> Tensor:
        x = self.core.solve(right[: self.size])
        return torch.cat([x, torch.add(right[self.size :], self.below(x), alpha=self.scale)])


class BlockTriangularLinearization:
    """A field of parts of one size: the first, `core`, knows nothing of the others, which share its Jacobian.

    `below` gives what the others' slopes have of the first one's J x, all in one vector.
    """

    recorded, still = False, None

    def __init__(
        self, slope: Tensor, time_derivative: Tensor | None, core: Linearization, below: Callable[[Tensor], Tensor]
    ):
        self.slope, self.time_derivative, self.core, self.below = slope, time_derivative, core, below
        self.usable = core.usable and core.still is None and (time_derivative is None or all_finite(time_derivative))

    def shifted(self, scale: float, rough: bool = False) -> BlockTriangularSolver:
        return BlockTriangularSolver(self, scale, rough)

    def bound(self) -> float:
        return self.core.bound()


class BlockTriangularSolver:
    def __init__(self, linear: BlockTriangularLinearization, scale: float, rough: bool):
        self.core, self.below, self.scale, self.rough = linear.core.shifted(scale, rough), linear.below, scale, rough
        self.size = len(linear.core.slope)

    @property
    def failure(self) -> str | None:
        return self.core.failure

    def solve(self, right: Tensor) -> Tensor:
        first, rest = self.core.solve(right[: self.size]), right[self.size :]
        if not self.rough:  # a corrected solution needs no more than the diagonal
            rest = torch.add(rest, self.below(first), alpha=self.scale)
        return torch.cat([first, *(self.core.solve(part) for part in rest.split(self.size))])


class NegatedTransposeLinearization:
    """-J^T of another linearization: the adjoint's field."""

    time_derivative, recorded, still = None, False, None

    def __init__(self, slope: Tensor, linear: Linearization):
        self.slope, self.linear, self.usable = slope, linear, linear.usable and linear.still is None

    def shifted(self, scale: float, rough: bool = False) -> TransposedSolver:
        return TransposedSolver(self.linear.shifted(-scale, rough))

    def bound(self) -> float:
        return self.linear.bound()


class TransposedSolver:
    def __init__(self, shifted: ShiftedSolver):
        self.shifted, self.solve = shifted, shifted.solve_transposed

    @property
    def failure(self) -> str | None:
        return self.shifted.failure


def solved(linear: Linearization, shifted: ShiftedSolver, scale: float, right: Tensor) -> Tensor:
    """Return x with (I - scale J) x = right, connected to autograd through `right` and J."""
    if not (linear.recorded or right.requires_grad):
        return shifted.solve(right)
    x = shifted.solve(right.detach())
    return ImplicitFunction.apply(shifted, x, torch.add(right - x, linear.product(x), alpha=scale))


class ImplicitFunction(torch.autograd.Function):
    """A solution x of residual(x, parameters) = 0, whose derivative is (I - scale J)^-1 times that of the residual.

    The implicit function theorem; `shifted` is minus the residual's derivative with respect to x.
    """

    @staticmethod
    def forward(ctx, shifted: ShiftedSolver, x: Tensor, residual: Tensor) -> Tensor:
        ctx.shifted = shifted
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        return None, None, ctx.shifted.solve_transposed(cotangent)
