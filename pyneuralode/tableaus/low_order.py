"""The classical methods of order one to four, and Bogacki and Shampine's 3(2) pair.

All but Euler's method have the cubic Hermite interpolant, the default of `Tableau`.
"""

from .tableau import Tableau

EULER = Tableau(
    "Euler",
    1,
    A=[[0]],
    b=[1],
    interpolant=[[1]],  # linear, like the step itself
    interpolant_order=1,
    source="L. Euler, Institutionum calculi integralis I, 1768, ch. VII",
)

MIDPOINT = Tableau(
    "Midpoint",
    2,
    A=[[0, 0], [1 / 2, 0]],
    b=[0, 1],
    source="C. Runge, Math. Ann. 46 (1895) 167-178",
)

HEUN = Tableau(
    "Heun",
    2,
    A=[[0, 0], [1, 0]],
    b=[1 / 2, 1 / 2],
    source="K. Heun, Z. Math. Phys. 45 (1900) 23-38",
)

RK4 = Tableau(
    "RK4",
    4,
    A=[[0, 0, 0, 0], [1 / 2, 0, 0, 0], [0, 1 / 2, 0, 0], [0, 0, 1, 0]],
    b=[1 / 6, 1 / 3, 1 / 3, 1 / 6],
    source="W. Kutta, Z. Math. Phys. 46 (1901) 435-453",
)

RK38 = Tableau(
    "RK38",
    4,
    A=[[0, 0, 0, 0], [1 / 3, 0, 0, 0], [-1 / 3, 1, 0, 0], [1, -1, 1, 0]],
    b=[1 / 8, 3 / 8, 3 / 8, 1 / 8],
    c=[0, 1 / 3, 2 / 3, 1],
    source="W. Kutta, Z. Math. Phys. 46 (1901) 435-453, the 3/8 rule",
)

BS3 = Tableau(
    "BS3",
    3,
    A=[[0, 0, 0, 0], [1 / 2, 0, 0, 0], [0, 3 / 4, 0, 0], [2 / 9, 1 / 3, 4 / 9, 0]],
    b=[2 / 9, 1 / 3, 4 / 9, 0],
    c=[0, 1 / 2, 3 / 4, 1],
    error=[-5 / 72, 1 / 12, 1 / 9, -1 / 8],
    error_order=2,
    source="P. Bogacki, L. F. Shampine, Appl. Math. Lett. 2 (1989) 321-325",
)
