"""torchdiffeq's interface: code written for torchdiffeq 0.2.5 runs when only its import changes.

In this package a method's name means torchdiffeq's method of that name: `rk4` is the 3/8 rule, `dopri8` is
Prince and Dormand's 8(7) pair. Steps, options and outputs are those of torchdiffeq; the arithmetic is that of the
torch engine.
"""

from .api import odeint, odeint_adjoint, odeint_event
from .dense import odeint_dense

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
