"""Steps of ESDIRK methods: simplified Newton iterations for each stage, with a Jacobian that later steps reuse."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..march import Method, Slope, Step, Tolerance, stage_time
from .coefficients import SDIRK
from .jacobians import linearize
from .linearizations import ImplicitFunction, Linearization, ShiftedSolver
from .step import StiffMethod, StiffStep

# A Newton iteration ends when its error is below this fraction of the step's tolerance.
NEWTON_TOLERANCE = 0.01
MAX_ITERATIONS = 10
# Changes of at most this many units of rounding error do not show whether the iteration contracts, and further
# iterations cannot make them smaller.
ROUNDINGS = 10
# The contraction rate above which the next step evaluates a new Jacobian, and the relative change of the step size
# above which the old Jacobian is factorized again. For smaller changes, the factors for the old step size are used and
# the iteration is damped, which halves the effect of the difference (Hindmarsh's rule in VODE).
GOOD_CONTRACTION, SAME_STEP = 0.05, 0.02


class SDIRKMethod(StiffMethod):
    def __init__(self, tableau: SDIRK, explicit: Method):
        super().__init__(tableau, explicit)
        both = self.tensor(np.stack([tableau.A, tableau.predictor], axis=1))
        self.rows = [row[:, :i] for i, row in enumerate(both)]

    def step(
        self, f: Slope, t: float, t_end: float, y: Tensor, carry: object = None, tolerance: Tolerance | None = None
    ) -> SDIRKStep | Step:
        if not isinstance(carry, SDIRKCarry):
            carry = SDIRKCarry(f(t, y) if carry is None else carry, NewtonIteration(self.tableau.gamma))
        with torch.no_grad():
            usable = carry.newton.prepare(f, t, y, t_end - t)
        step = SDIRKStep(self, f, t, t_end, y, carry, tolerance) if usable else None
        moves = step is None or step.moves(carry.newton.linear.frozen)
        return self.explicit.step(f, t, t_end, y, carry.slope) if moves else step


class NewtonIteration:
    """Simplified Newton iterations with one matrix I - gamma h J, which is reused for several steps."""

    def __init__(self, gamma: float):
        self.gamma = gamma
        self.linear: Linearization | None = None
        self.solver: ShiftedSolver | None = None
        self.size = self.time = math.nan  # the step size of the factors, and the time of the Jacobian
        self.rate = self.worst = 1.0  # the last contraction rate, and the worst rate in the current step

    def prepare(self, f: Slope, t: float, y: Tensor, h: float) -> bool:
        """Prepare for the stages of a step of size h from (t, y); return whether the Jacobian is usable."""
        if self.linear is None or (self.worst > GOOD_CONTRACTION and self.time != t):
            self._linearize(f, t, y, h)
        if not self.linear.usable:
            return False
        if not abs(h - self.size) <= SAME_STEP * abs(h):
            self._factorize(h)
        self.worst = 0.0
        return True

    def refresh(self, f: Slope, t: float, y: Tensor, h: float) -> bool:
        """After a failure, update the Jacobian and its factors; return whether they changed and J is usable."""
        if self.time == t and self.size == h:
            return False
        if self.time != t:
            self._linearize(f, t, y, h)
        if not self.linear.usable:
            return False
        self._factorize(h)
        return True

    def solve(self, f: Slope, time: float, h: float, base: Tensor, z: Tensor, tolerance: Tolerance) -> Tensor | None:
        """Return z with z = h f(time, base + gamma z), or None if the iteration does not converge.

        Of `tolerance`, only `atol` (a tensor) and `norm` are used.
        """
        damping = 2 / (1 + h / self.size)
        # An old rate is trusted less each time it is used, so that eventually a second iteration measures a new one.
        last, rate = math.inf, max(self.rate, 1e-16) ** 0.8
        self.rate = rate
        for left in reversed(range(MAX_ITERATIONS)):
            slope = f(time, torch.add(base, z, alpha=self.gamma))
            change = self.solver.solve(torch.sub(z, slope, alpha=h))
            z = torch.sub(z, change, alpha=damping)
            size = damping * float(tolerance.norm(change / tolerance.atol))
            if last < math.inf:
                rate = size / last
            converged = size == 0 or (rate < 1 and rate / (1 - rate) * size < NEWTON_TOLERANCE)
            hopeless = last < math.inf and (rate >= 1 or rate**left / (1 - rate) * size > NEWTON_TOLERANCE)
            if not converged and (hopeless or not math.isfinite(size)):
                rounding = ROUNDINGS * torch.finfo(z.dtype).eps * (base.abs() + z.abs())
                # Check every component: the change in a small component may be small only because its Jacobian is far
                # too large.
                if bool((change.abs() <= rounding).all()):
                    self.worst = 1.0
                    return z
                self.rate = self.worst = 1.0
                return None
            if last < math.inf:
                self.rate, self.worst = rate, max(self.worst, rate)
            elif rate > 0.5:
                self.worst = rate  # the change is lost in rounding: the matrix may be far too large, or out of date
            if converged:
                return z
            last = size
        return None

    def _linearize(self, f: Slope, t: float, y: Tensor, h: float) -> None:
        self.linear, self.time, self.size = linearize(f, t, y, h, time_derivative=False), t, math.nan

    def _factorize(self, h: float) -> None:
        self.solver, self.size = self.linear.shifted_solver(self.gamma * h, rough=True), h


class SDIRKCarry:
    """Data passed to the next step: the slope at its start, and the Newton iteration."""

    def __init__(self, slope: Tensor, newton: NewtonIteration):
        self.slope, self.newton = slope, newton


class SDIRKStep(StiffStep):
    """A step of an ESDIRK method; its stages are the z_i of `SDIRK`."""

    def __init__(
        self, method: SDIRKMethod, f: Slope, t: float, t_end: float, y: Tensor, carry: SDIRKCarry, tolerance: Tolerance
    ):
        super().__init__(method, t, t_end, y)
        tableau, h = method.tableau, self.h
        self.retry, newton = carry, carry.newton
        with torch.no_grad():
            atol = y.abs().mul_(tolerance.rtol).add_(tolerance.atol)
        tolerance = tolerance._replace(rtol=0.0, atol=atol)
        self.stages = [carry.slope * h]
        for c, row in zip(method.c[1:], method.rows[1:]):
            known, guess = torch.mm(row, torch.stack(self.stages)).unbind()
            base, time = y + known, stage_time(self, c)
            with torch.no_grad():
                z = newton.solve(f, time, h, base, guess, tolerance)
                if z is None and newton.refresh(f, t, y, h):
                    z = newton.solve(f, time, h, base, guess, tolerance)
            if z is None:
                self.end, self.failure = y, newton.solver.failure or "Newton's iteration did not converge"
                return
            if torch.is_grad_enabled() and (base.requires_grad or getattr(f, "holds_gradients", True)):
                z = _connect_to_autograd(f, time, h, base, z, tableau.gamma)
            self.stages.append(z)
        self.end = torch.add(base, z, alpha=tableau.gamma)  # the last stage is at the end of the step

    @property
    def end_slope(self) -> Tensor:
        return self.stages[-1] / self.h

    @property
    def carry(self) -> SDIRKCarry:
        return SDIRKCarry(self.end_slope, self.retry.newton)

    @property
    def solver(self) -> ShiftedSolver:
        return self.retry.newton.solver

    def extend(self) -> None:
        """Do nothing: the interpolant needs no additional stages."""


def _connect_to_autograd(f: Slope, time: float, h: float, base: Tensor, z: Tensor, gamma: float) -> Tensor:
    """Return the solution z of z = h f(time, base + gamma z), connected to autograd."""
    state = torch.add(base, z, alpha=gamma)
    residual = torch.sub(f(time, state) * h, z)
    if not residual.requires_grad:
        return z
    with torch.no_grad():
        linear = linearize(f, time, state.detach(), -h, time_derivative=False)  # -h: toward the step's start
        solver = linear.shifted_solver(gamma * h)
    return ImplicitFunction.apply(solver, z, residual)
