"""torchdiffeq's interface: code written for torchdiffeq 0.2.5 runs when only its import changes.

Inside this room a method's name means torchdiffeq's method of that name: `rk4` is the 3/8 rule, `dopri8` is
Prince and Dormand's 8(7) pair. Steps, options and outputs are torchdiffeq's; the arithmetic is the torch
engine's.
"""

from .api import odeint, odeint_adjoint, odeint_event
from .dense import odeint_dense

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
