"""Steps of ESDIRK methods: each stage by Newton's iteration, with a Jacobian and factors kept as long as they serve."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..march import Method, Slope, Step, Tolerance, stage_time
from .coefficients import SDIRK
from .jacobians import linearize
from .linearizations import ImplicitFunction, Linearization, ShiftedSolver
from .step import StiffStep

# Newton's iteration ends when its error is this part of the step's tolerance.
NEWTON_TOLERANCE = 0.01
MAX_ITERATIONS = 10
# Changes of so many roundings of the stage tell nothing of the contraction, and no iteration would make them smaller.
ROUNDINGS = 10
# Contraction beyond which the next step evaluates a new Jacobian, and relative change of the step size beyond which the
# old one is factorized anew. Below it the factors' h stands in for the true one and the iteration is damped, which
# halves what the difference costs (Hindmarsh's rule in VODE).
GOOD_CONTRACTION, SAME_STEP = 0.05, 0.02


class SDIRKMethod:
    """The coefficients as tensors of one dtype and device; `explicit` steps where the Jacobian is not usable."""

    def __init__(self, tableau: SDIRK, explicit: Method):
        self.tableau, self.explicit = tableau, explicit
        dtype, device = explicit.dtype, explicit.device
        both = torch.tensor(np.stack([tableau.A, tableau.predictor], axis=1), dtype=dtype, device=device)
        self.rows = [row[:, :i] for i, row in enumerate(both)]
        self.c = tableau.c.tolist()
        self.error = torch.tensor(tableau.error, dtype=dtype, device=device)

    def stepper(self) -> SDIRKMethod:
        return self

    def step(
        self, f: Slope, t: float, t_end: float, y: Tensor, first: object = None, tolerance: Tolerance | None = None
    ) -> SDIRKStep | Step:
        if not isinstance(first, Start):
            first = Start(f(t, y) if first is None else first, Newton(self.tableau.gamma))
        with torch.no_grad():
            usable = first.newton.prepare(f, t, y, t_end - t)
        step = SDIRKStep(self, f, t, t_end, y, first, tolerance) if usable else None
        moves = step is None or step.moves(first.newton.linear.still)
        return self.explicit.step(f, t, t_end, y, first.slope) if moves else step


class Newton:
    """Simplified Newton iterations with one matrix I - gamma h J, which outlives the step."""

    def __init__(self, gamma: float):
        self.gamma = gamma
        self.linear: Linearization | None = None
        self.shifted: ShiftedSolver | None = None
        self.size = self.time = math.nan  # the h that was factorized, and the time of the Jacobian
        self.rate = self.worst = 1.0  # the last contraction seen, and the worst one of the step

    def prepare(self, f: Slope, t: float, y: Tensor, h: float) -> bool:
        """Make ready for the stages of the step of size h from (t, y); return whether there is a Jacobian to use."""
        if self.linear is None or (self.worst > GOOD_CONTRACTION and self.time != t):
            self._linearize(f, t, y, h)
        if not self.linear.usable:
            return False
        if not abs(h - self.size) <= SAME_STEP * abs(h):
            self._factorize(h)
        self.worst = 0.0
        return True

    def renew(self, f: Slope, t: float, y: Tensor, h: float) -> bool:
        """After a failure, return whether there was something to renew."""
        if self.time == t and self.size == h:
            return False
        if self.time != t:
            self._linearize(f, t, y, h)
        if not self.linear.usable:
            return False
        self._factorize(h)
        return True

    def solve(self, f: Slope, time: float, h: float, base: Tensor, z: Tensor, tolerance: Tolerance) -> Tensor | None:
        """Return z with z = h f(time, base + gamma z), or None where the iteration does not converge.

        `tolerance` is measured in units of its atol, a tensor, alone.
        """
        damping = 2 / (1 + h / self.size)
        # An old rate is trusted less every time, so that sooner or later a second iteration tells.
        last, rate = math.inf, max(self.rate, 1e-16) ** 0.8
        self.rate = rate
        for left in reversed(range(MAX_ITERATIONS)):
            slope = f(time, torch.add(base, z, alpha=self.gamma))
            change = self.shifted.solve(torch.sub(z, slope, alpha=h))
            z = torch.sub(z, change, alpha=damping)
            size = damping * float(tolerance.norm(change / tolerance.atol))
            if last < math.inf:
                rate = size / last
            converged = size == 0 or (rate < 1 and rate / (1 - rate) * size < NEWTON_TOLERANCE)
            hopeless = last < math.inf and (rate >= 1 or rate**left / (1 - rate) * size > NEWTON_TOLERANCE)
            if not converged and (hopeless or not math.isfinite(size)):
                rounding = ROUNDINGS * torch.finfo(z.dtype).eps * (base.abs() + z.abs())
                # Of each component: those of a small one may be small because its Jacobian is far too large.
                if bool((change.abs() <= rounding).all()):
                    self.worst = 1.0
                    return z
                self.rate = self.worst = 1.0
                return None
            if last < math.inf:
                self.rate, self.worst = rate, max(self.worst, rate)
            elif rate > 0.5:
                self.worst = (
                    rate  # changes too small to be told from none: the matrix may be far too large, or out of date
                )
            if converged:
                return z
            last = size
        return None

    def _linearize(self, f: Slope, t: float, y: Tensor, h: float) -> None:
        self.linear, self.time, self.size = linearize(f, t, y, h, time_derivative=False), t, math.nan

    def _factorize(self, h: float) -> None:
        self.shifted, self.size = self.linear.shifted(self.gamma * h, rough=True), h


class Start:
    """What a step hands on: the slope at the point from which another starts, and Newton's matrix."""

    def __init__(self, slope: Tensor, newton: Newton):
        self.slope, self.newton = slope, newton


class SDIRKStep(StiffStep):
    """A step whose stages are the z_i of `SDIRK`."""

    def __init__(
        self, method: SDIRKMethod, f: Slope, t: float, t_end: float, y: Tensor, first: Start, tolerance: Tolerance
    ):
        super().__init__(method, t, t_end, y)
        tableau, h = method.tableau, self.h
        self.again, newton = first, first.newton
        with torch.no_grad():
            atol = y.abs().mul_(tolerance.rtol).add_(tolerance.atol)
        tolerance = tolerance._replace(rtol=0.0, atol=atol)
        self.stages = [first.slope * h]
        for c, row in zip(method.c[1:], method.rows[1:]):
            known, guess = torch.mm(row, torch.stack(self.stages)).unbind()
            base, time = y + known, stage_time(self, c)
            with torch.no_grad():
                z = newton.solve(f, time, h, base, guess, tolerance)
                if z is None and newton.renew(f, t, y, h):
                    z = newton.solve(f, time, h, base, guess, tolerance)
            if z is None:
                self.end, self.failure = y, newton.shifted.failure or "Newton's iteration did not converge"
                return
            if torch.is_grad_enabled() and (base.requires_grad or getattr(f, "holds_gradients", True)):
                z = _recorded(f, time, h, base, z, tableau.gamma)
            self.stages.append(z)
        self.end = torch.add(base, z, alpha=tableau.gamma)  # the last stage is the end

    @property
    def end_slope(self) -> Tensor:
        return self.stages[-1] / self.h

    @property
    def carry(self) -> Start:
        return Start(self.end_slope, self.again.newton)

    @property
    def shifted(self) -> ShiftedSolver:
        return self.again.newton.shifted

    def extend(self) -> None:
        """Nothing: the interpolant has all its stages."""


def _recorded(f: Slope, time: float, h: float, base: Tensor, z: Tensor, gamma: float) -> Tensor:
    """Return z, the solution of z = h f(time, base + gamma z), connected to autograd."""
    state = torch.add(base, z, alpha=gamma)
    residual = torch.sub(f(time, state) * h, z)
    if not residual.requires_grad:
        return z
    with torch.no_grad():
        shifted = linearize(f, time, state.detach(), -h, time_derivative=False).shifted(
            gamma * h
        )  # -h: toward the step's start
    return ImplicitFunction.apply(shifted, z, residual)
