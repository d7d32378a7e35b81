"""torchdiffeq's interface: code written for torchdiffeq 0.2.5 needs no change except its import.

In this package, the names of methods have torchdiffeq's meaning: `rk4` is the 3/8 rule, and `dopri8` is Prince and
Dormand's 8(7) pair. Steps, options and outputs are the same as in torchdiffeq; the computations use the torch engine.
"""

from .api import odeint, odeint_adjoint, odeint_event
from .dense import odeint_dense

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
