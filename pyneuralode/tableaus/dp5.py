"""Dormand and Prince's 5(4) pair with Shampine's quartic interpolant."""

import numpy as np

from .tableau import Tableau, hermite_interpolant, table

_A = table("""
    0;
    1/5;
    3/40 9/40;
    44/45 -56/15 32/9;
    19372/6561 -25360/2187 64448/6561 -212/729;
    9017/3168 -355/33 46732/5247 49/176 -5103/18656;
    35/384 0 500/1113 125/192 -2187/6784 11/84 0
""")
_b = _A[-1]
_error = table("""
    71/57600 0 -71/16695 71/1920 -17253/339200 22/525 -1/40
""")[0]

# The interpolant is the cubic Hermite interpolant plus theta^2 (1 - theta)^2 times this combination of the stages; the
# added term does not change the value or the derivative at either end.
_bump = table("""
    -12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072 701980252875/199316789632
        -1453857185/822651844 69997945/29380423
""")[0]

DP5 = Tableau(
    "DP5",
    5,
    A=_A,
    b=_b,
    c=[0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1],
    error=_error,
    error_order=4,
    interpolant=np.pad(hermite_interpolant(_b), ((0, 0), (0, 1))) + np.outer(_bump, [0, 1, -2, 1]),
    interpolant_order=4,
    source="J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19-26; interpolant: L. F. Shampine, "
    "Math. Comp. 46 (1986) 135-150, as in dopri5 of Hairer, Norsett, Wanner",
)
