"""Automatic switching between an explicit method and a method for stiff problems during a solve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....tableaus import Tableau
from ..march import Method, Slope, Step, Tolerance
from .coefficients import Rosenbrock
from .rosenbrock import RosenbrockMethod, RosenbrockStep

# As in OrdinaryDiffEq's AutoSwitch: a step is stiff if |eigenvalue| h exceeds this fraction of the explicit method's
# stability interval; the solve switches methods after this many consecutive stiff or nonstiff steps.
STABILITY_MARGIN = 0.9
STIFF_STEPS, NONSTIFF_STEPS = 10, 3


@dataclass(frozen=True, eq=False)
class AutoSwitch:
    """An explicit method with its real stability interval, and a stiff method to switch to.

    The last two stages of the explicit method must be at the step's end.
    """

    name: str
    explicit: Tableau
    stability_interval: float
    stiff: Rosenbrock

    @property
    def order(self) -> int:
        return self.explicit.order

    @property
    def error(self):
        return self.explicit.error


class AutoSwitchMethod:
    """The explicit and the stiff method as tensors; `stepper` starts every solve with the explicit method."""

    def __init__(self, tableau: AutoSwitch, explicit: Method, stiff: RosenbrockMethod):
        self.tableau, self.explicit, self.stiff = tableau, explicit, stiff
        last, before = tableau.explicit.A[-1], tableau.explicit.A[-2]
        self.stage_difference = torch.tensor(last - before, dtype=explicit.dtype, device=explicit.device)

    def stepper(self) -> AutoSwitchStepper:
        return AutoSwitchStepper(self)


class AutoSwitchStepper:
    """The switching state of one solve: the current method, and for how many steps the other method looked better."""

    def __init__(self, method: AutoSwitchMethod):
        self.method, self.current = method, method.explicit
        self.count = 0
        self.last: Step | RosenbrockStep | None = None

    def step(
        self, f: Slope, t: float, t_end: float, y: Tensor, carry: object, tolerance: Tolerance
    ) -> Step | RosenbrockStep:
        stiff = self.current is self.method.stiff
        if self.count > (NONSTIFF_STEPS if stiff else STIFF_STEPS):
            self.current, self.count, stiff = self.method.explicit if stiff else self.method.stiff, 0, not stiff
            # The data that one method passes to its next step cannot be used by the other.
            carry = self.last.end_slope if self.last.t_end == t else None
        self.last = step = self.current.step(f, t, t_end, y, carry, tolerance)
        with torch.no_grad():
            explicit = isinstance(step, Step)  # also true if the stiff method found no usable Jacobian
            rate = self._spectral_radius(step, tolerance) if explicit else step.retry.spectral_bound()
        looks_stiff = not abs(step.h) * rate <= STABILITY_MARGIN * self.method.tableau.stability_interval
        self.count = self.count + 1 if looks_stiff != stiff else 0
        return step

    def _spectral_radius(self, step: Step, tolerance: Tolerance) -> float:
        """Estimate the spectral radius as |df| / |dy| between the last two stages (Hairer and Wanner, IV.2)."""
        s = self.method.tableau.explicit.stages
        apart = torch.mv(torch.stack(step.stages[:s]).t(), self.method.stage_difference) * step.h
        scale = step.y.abs().mul_(tolerance.rtol).add_(tolerance.atol)
        faster = torch.sub(step.stages[s - 1], step.stages[s - 2])
        return float(tolerance.norm(faster / scale) / tolerance.norm(apart / scale))
