"""The Runge-Kutta methods by torchdiffeq's names, with torchdiffeq 0.2.5's coefficients.

All adaptive pairs use the same form of dense output: the quartic through the states at the start, the middle and
the end of a step, with the derivatives of the first and the last stage. `middle` contains the weights for the state
in the middle.
"""

from dataclasses import replace

import numpy as np

from ..tableaus import TABLEAUS, Tableau
from ..tableaus.tableau import table


def with_quartic(tableau: Tableau, middle: list[float]) -> Tableau:
    """Return `tableau` with torchdiffeq's quartic dense output.

    `middle` contains the weights of the stages for the state at mid-step.
    """
    weights = np.outer(tableau.b, [0, -5, 14, -8]) + np.outer(middle, [0, 16, -32, 16])
    weights[0] += [1, -4, 5, -2]
    weights[-1] += [0, 1, -3, 2]
    return replace(tableau, extra_A=None, extra_c=None, interpolant=weights, interpolant_order=1)


HEUN3 = Tableau(
    "heun3",
    3,
    A=[[0, 0, 0], [1 / 3, 0, 0], [0, 2 / 3, 0]],
    b=[1 / 4, 0, 3 / 4],
    source="K. Heun, Z. Math. Phys. 45 (1900) 23-38",
)

ADAPTIVE_HEUN = with_quartic(replace(TABLEAUS["Heun"], error=[1 / 2, -1 / 2]), [1 / 2, 0])

FEHLBERG2 = with_quartic(
    Tableau(
        "fehlberg2",
        2,
        A=[[0, 0, 0], [1 / 2, 0, 0], [1 / 256, 255 / 256, 0]],
        b=[1 / 512, 255 / 256, 1 / 512],
        error=[-1 / 512, 0, 1 / 512],
        source="E. Fehlberg, NASA TR R-315, 1969",
    ),
    [0, 1 / 2, 0],
)

BOSH3 = with_quartic(TABLEAUS["BS3"], [0, 1 / 2, 0, 0])

# The error weights and the mid-step weights are those of L. F. Shampine, Math. Comp. 46 (1986) 135-150, not Hairer's.
DOPRI5 = with_quartic(
    replace(
        TABLEAUS["DP5"],
        error=TABLEAUS["DP5"].b - table("1951/21600 0 22642/50085 451/720 -12231/42400 649/6300 1/60")[0],
    ),
    table("""
        6025192743/60171106304 0 51252292925/130801643196 -2691868925/90256659456 187940372067/3189068634112
            -1776094331/39487288512 11237099/470086768
    """)[0],
)

_A8 = table("""
    0;
    1/18;
    1/48 1/16;
    1/32 0 3/32;
    5/16 0 -75/64 75/64;
    3/80 0 0 3/16 3/20;
    29443841/614563906 0 0 77736538/692538347 -28693883/1125000000 23124283/1800000000;
    16016141/946692911 0 0 61564180/158732637 22789713/633445777 545815736/2771057229 -180193667/1043307555;
    39632708/573591083 0 0 -433636366/683701615 -421739975/2616292301 100302831/723423059 790204164/839813087
        800635310/3783071287;
    246121993/1340847787 0 0 -37695042795/15268766246 -309121744/1061227803 -12992083/490766935
        6005943493/2108947869 393006217/1396673457 123872331/1001029789;
    -1028468189/846180014 0 0 8478235783/508512852 1311729495/1432422823 -10304129995/1701304382
        -48777925059/3047939560 15336726248/1032824649 -45442868181/3398467696 3065993473/597172653;
    185892177/718116043 0 0 -3185094517/667107341 -477755414/1098053517 -703635378/230739211 5731566787/1027545527
        5232866602/850066563 -4093664535/808688257 3962137247/1805957418 65686358/487910083;
    403863854/491063109 0 0 -5068492393/434740067 -411421997/543043805 652783627/914296604 11173962825/925320556
        -13158990841/6184727034 3936647629/1978049680 -160528059/685178525 248638103/1413531060 0;
    14005451/335480064 0 0 0 0 -59238493/1068277825 181606767/758867731 561292985/797845732 -1041891430/1371343529
        760417239/1151165299 118820643/751138087 -528747749/2220607170 1/4 0
""")
_b7 = table("""
    13451932/455176623 0 0 0 0 -808719846/976000145 1757004468/5645159321 656045339/265891186
        -3867574721/1518517206 465885868/322736535 53011238/667516719 2/45 0 0
""")[0]
DOPRI8 = with_quartic(
    Tableau(
        "dopri8",
        8,
        A=_A8,
        b=_A8[-1],
        c=table("""
            0 1/18 1/12 1/8 5/16 3/8 59/400 93/200 5490023248/9719169821 13/20 1201146811/1299019798 1 1 1
        """)[0],
        error=_A8[-1] - _b7,
        source="P. J. Prince, J. R. Dormand, J. Comput. Appl. Math. 7 (1981) 67-75, RK8(7)13M",
    ),
    # The degree-six interpolant of the pair, at half a step.
    table("""
        0.04103130360739393 0 0 0 0 0.05100562801991382 0.2388930677412202 0.3096870143996103 -0.2172325471755352
            0.07833405679331928 -0.0018614369715579948 0.007072844202678841 0.00690847373200576 -0.013838404349047373
    """)[0],
)

FIXED = {
    "euler": TABLEAUS["Euler"],
    "midpoint": TABLEAUS["Midpoint"],
    "heun2": TABLEAUS["Heun"],
    "heun3": HEUN3,
    "rk4": TABLEAUS["RK38"],
}

ADAPTIVE = {
    "dopri8": DOPRI8,
    "dopri5": DOPRI5,
    "bosh3": BOSH3,
    "fehlberg2": FEHLBERG2,
    "adaptive_heun": ADAPTIVE_HEUN,
}
