"""Linearizations of a slope at one point: the slope itself, its Jacobian J, and solvers for I - scale J."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ....problem.values import all_finite
from ..once_differentiable import once_differentiable

# The maximum number of GMRES restarts and of Krylov vectors between restarts, and the relative precision that is
# sufficient inside a Newton iteration.
MAX_RESTARTS, MAX_VECTORS, ROUGH_PRECISION = 10, 100, 1e-3


class ShiftedSolver(Protocol):
    """A solver for linear systems with I - scale J, not recorded by autograd; `failure` describes an error, if any."""

    failure: str | None

    def solve(self, right: Tensor) -> Tensor: ...

    def solve_transposed(self, right: Tensor) -> Tensor: ...


class Linearization(ABC):
    """The linearization of f at (t, y): slope (n,), `time_derivative` df/dt (n,) (None if zero), and Jacobian J.

    If autograd has recorded the linearization, `jvp(x)` returns J x (n,), which is differentiable.
    """

    slope: Tensor
    time_derivative: Tensor | None
    recorded = False  # whether autograd has recorded the linearization
    frozen: Tensor | None = None  # mask (n,) of components that no step may change: their columns of J are not finite
    jacobian_usable: bool

    @property
    def usable(self) -> bool:
        """Whether J and df/dt describe how f changes; otherwise no step uses them."""
        return self.jacobian_usable and (self.time_derivative is None or all_finite(self.time_derivative))

    @abstractmethod
    def shifted_solver(self, scale: float, rough: bool = False) -> ShiftedSolver:
        """Return a solver for I - scale J, accurate to only a few digits if `rough` (for solutions corrected later)."""

    @abstractmethod
    def spectral_bound(self) -> float:
        """Return a bound on (or an estimate of) the largest absolute eigenvalue of J."""


class DenseLinearization(Linearization):
    """A Jacobian matrix (n, n), or N matrices (N, d, d) of samples that do not depend on each other.

    Columns that are not finite, as for sqrt(y) at y = 0, are set to zero and marked in `frozen`. `linear_enough` says
    whether difference quotients are close to derivatives.
    """

    def __init__(self, slope: Tensor, time_derivative: Tensor | None, jacobian: Tensor, linear_enough: bool = True):
        self.slope, self.time_derivative, self.jacobian_usable = slope, time_derivative, linear_enough
        if not all_finite(jacobian):
            columns = ~torch.isfinite(jacobian).all(-2)
            self.frozen, jacobian = columns.reshape(-1), jacobian.masked_fill(columns[..., None, :], 0.0)
        self.jacobian, self.recorded = jacobian, jacobian.requires_grad

    def jvp(self, x: Tensor) -> Tensor:
        return torch.matmul(self.jacobian, x.view(*self.jacobian.shape[:-1], 1)).view(-1)

    def shifted_solver(self, scale: float, rough: bool = False) -> LUSolver:
        return LUSolver(self.jacobian.detach(), scale)

    def spectral_bound(self) -> float:
        return float(self.jacobian.detach().abs().sum(-1).max())


class LUSolver:
    """LU factors of I - scale J. If this matrix is singular, solutions are not finite and the step is rejected."""

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


class MatrixFreeLinearization(Linearization):
    """A Jacobian available only through products with vectors, each computed by one autograd pass through the field.

    Two reverse-mode passes replace a forward-mode pass: `transposed_product` is J^T u for a dummy u, and its derivative
    with respect to u gives J x.
    """

    def __init__(self, slope: Tensor, time_derivative: Tensor | None, at: Tensor, dummy: Tensor, recording: bool):
        self.slope = slope if recording else slope.detach()
        self.time_derivative, self.at, self.recorded = time_derivative, at, recording
        self.graph, self.dummy = slope, dummy
        with torch.enable_grad():
            (self.transposed_product,) = torch.autograd.grad(
                slope, at, dummy, create_graph=True, materialize_grads=True
            )
        self.jacobian_usable = all_finite(self.jvp(torch.ones_like(slope)))

    def jvp(self, x: Tensor) -> Tensor:
        if not self.transposed_product.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(
            self.transposed_product,
            self.dummy,
            x,
            retain_graph=True,
            create_graph=self.recorded and torch.is_grad_enabled(),
        )[0]

    def vjp(self, x: Tensor) -> Tensor:
        return torch.autograd.grad(self.graph, self.at, x, retain_graph=True, materialize_grads=True)[0]

    def shifted_solver(self, scale: float, rough: bool = False) -> GMRESSolver:
        return GMRESSolver(self, scale, rough)

    def spectral_bound(self) -> float:
        """Estimate the largest eigenvalue by a few steps of the power method."""
        x = torch.ones_like(self.slope.detach())
        for _ in range(5):
            x = self.jvp(x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(x.dtype).tiny)).detach()
        return float(torch.linalg.vector_norm(x))


class GMRESSolver:
    """GMRES for I - scale J (Saad and Schultz 1986), without a preconditioner."""

    def __init__(self, linear: MatrixFreeLinearization, scale: float, rough: bool):
        self.linear, self.scale, self.precision = linear, scale, ROUGH_PRECISION if rough else None
        self.failure: str | None = None

    def solve(self, right: Tensor) -> Tensor:
        return self._gmres(lambda x: x - self.scale * self.linear.jvp(x), right)

    def solve_transposed(self, right: Tensor) -> Tensor:
        return self._gmres(lambda x: x - self.scale * self.linear.vjp(x), right)

    @torch.no_grad()
    def _gmres(self, apply: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        # By default, the target is far below any tolerance of the solve, so that the order of the method is preserved.
        target = (self.precision or torch.finfo(right.dtype).eps ** 0.75) * float(torch.linalg.vector_norm(right))
        x, residual = torch.zeros_like(right), right
        for _ in range(MAX_RESTARTS):
            x = x + _krylov_correction(apply, residual, target)
            residual = right - apply(x)
            size = float(torch.linalg.vector_norm(residual))
            if size <= 2 * target:
                return x
            if not math.isfinite(size):
                break
        self.failure = "GMRES did not converge"
        return x


def _krylov_correction(apply: Callable[[Tensor], Tensor], residual: Tensor, target: float) -> Tensor:
    """Return the correction that minimizes the residual, using at most `MAX_VECTORS` products with the matrix."""
    size = float(torch.linalg.vector_norm(residual))
    if not 0 < size < math.inf:
        return residual
    basis = residual.new_empty(MAX_VECTORS + 1, len(residual))
    basis[0] = residual / size
    triangle, right, rotations = np.zeros((MAX_VECTORS, MAX_VECTORS)), [size], []
    for j in range(MAX_VECTORS):
        vector, space = apply(basis[j]), basis[: j + 1]
        parts = space @ vector
        vector = torch.addmv(vector, space.t(), parts, alpha=-1)
        rest = space @ vector  # the parts that remain because of rounding errors
        vector = torch.addmv(vector, space.t(), rest, alpha=-1)
        *column, length = torch.cat([parts + rest, torch.linalg.vector_norm(vector)[None]]).tolist()
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


class BlockTriangularLinearization(Linearization):
    """The linearization of a slope whose first block depends only on the state's first block: J = [[A, 0], [B, D]].

    A is the Jacobian of `core` or, if `transposed`, minus its transpose, as in the adjoint equation; `below(x)` returns
    B x. D is zero for quadratures, since nothing depends on them. If `repeated`, D is block diagonal: it contains A for
    each of several blocks as large as the first.
    """

    def __init__(
        self,
        slope: Tensor,
        time_derivative: Tensor | None,
        core: Linearization,
        below: Callable[[Tensor], Tensor],
        transposed: bool = False,
        repeated: bool = False,
    ):
        self.slope, self.time_derivative, self.core, self.below = slope, time_derivative, core, below
        self.transposed, self.repeated = transposed, repeated
        self.jacobian_usable = core.usable and core.frozen is None

    def shifted_solver(self, scale: float, rough: bool = False) -> BlockTriangularSolver:
        return BlockTriangularSolver(self, scale, rough)

    def spectral_bound(self) -> float:
        return self.core.spectral_bound()


class BlockTriangularSolver:
    """A solver for a block triangular matrix: it solves for the first block, then for the blocks below it."""

    def __init__(self, linear: BlockTriangularLinearization, scale: float, rough: bool):
        self.linear, self.scale, self.rough = linear, scale, rough
        self.core = linear.core.shifted_solver(-scale if linear.transposed else scale, rough)
        self.solve_block = self.core.solve_transposed if linear.transposed else self.core.solve

    @property
    def failure(self) -> str | None:
        return self.core.failure

    def solve(self, right: Tensor) -> Tensor:
        linear, size = self.linear, len(self.linear.core.slope)
        first, rest = self.solve_block(right[:size]), right[size:]
        if not (linear.repeated and self.rough):  # if the solution is corrected later, the diagonal blocks suffice
            rest = torch.add(rest, linear.below(first), alpha=self.scale)
        blocks = map(self.solve_block, rest.split(size)) if linear.repeated else [rest]
        return torch.cat([first, *blocks])


def differentiable_solve(linear: Linearization, solver: ShiftedSolver, scale: float, right: Tensor) -> Tensor:
    """Return x with (I - scale J) x = right, connected to autograd through `right` and J."""
    if not (linear.recorded or right.requires_grad):
        return solver.solve(right)
    x = solver.solve(right.detach())
    return ImplicitFunction.apply(solver, x, torch.add(right - x, linear.jvp(x), alpha=scale))


class ImplicitFunction(torch.autograd.Function):
    """A solution x of residual(x, parameters) = 0, differentiated by the implicit function theorem.

    The derivative of x is (I - scale J)^-1 times the derivative of the residual. `solver` solves linear systems with
    I - scale J, which is minus the derivative of the residual with respect to x.
    """

    @staticmethod
    def forward(ctx, solver: ShiftedSolver, x: Tensor, residual: Tensor) -> Tensor:
        ctx.solver = solver
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        return None, None, ctx.solver.solve_transposed(cotangent)
