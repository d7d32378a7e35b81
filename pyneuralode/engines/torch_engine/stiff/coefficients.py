"""The coefficients of the methods for stiff problems as plain arrays, and the dense outputs derived from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ....tableaus import TABLEAUS
from ....tableaus.tableau import table

# The method for steps that start where the Jacobian is not usable, as for sqrt(y) at y = 0.
EXPLICIT_FALLBACK = TABLEAUS["Tsit5"]


@dataclass(frozen=True, eq=False)
class Rosenbrock:
    """A Rosenbrock method in the form that needs no product with the Jacobian J.

    A step of size h from (t, y) solves, one stage after another and all with the same matrix,
    (I / (gamma h) - J) u_i = f(t + c_i h, y + sum_j A_ij u_j) + sum_j (C_ij / h) u_j + h d_i df/dt
    with J and df/dt at (t, y), and ends at y + sum_i b_i u_i.

    Parameters
    ----------
    name, order : str, int
        As in `Tableau`.
    gamma : float
    A, C : (s, s)
        Strictly lower triangular.
    c, d : (s,)
    b : (s,)
        Weights of the solution.
    error : (s,)
        Weights of the error estimate, of order `error_order` + 1 in h.
    interpolant : (s, p)
        Dense output y + sum_i b_i(theta) u_i with b_i(theta) = sum_q interpolant[i, q] theta^(q + 1).

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., 1996, IV.7.
    """

    name: str
    order: int
    gamma: float
    A: np.ndarray = field(repr=False)
    C: np.ndarray = field(repr=False)
    c: np.ndarray = field(repr=False)
    d: np.ndarray = field(repr=False)
    b: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    error_order: int
    interpolant: np.ndarray = field(repr=False)
    interpolant_order: int
    source: str = field(repr=False)

    @property
    def stages(self) -> int:
        return len(self.b)

    @cached_property
    def end_stage(self) -> int | None:
        """Index of the stage that evaluates f at the end of the step, which the next step reuses, or None."""
        last = self.stages - 1
        ends = self.c[last] == 1 and self.b[last] == 0 and np.array_equal(self.A[last], self.b)
        return last if ends else None


@dataclass(frozen=True, eq=False)
class SDIRK:
    """A singly diagonally implicit Runge-Kutta method with an explicit first stage (ESDIRK).

    A step of size h from (t, y) has the stages z_i = h f(t + c_i h, y + sum_j A_ij z_j), each solved for in turn with
    the matrix I - gamma h J, and ends at y + sum_i b_i z_i, where b is the last row of A, so the last stage is h f at
    the end.

    Parameters
    ----------
    name, order : str, int
        As in `Tableau`.
    gamma : float
        The diagonal entries of A, except the first, which is 0.
    A : (s, s)
        Lower triangular.
    error : (s,)
        Weights of the error estimate, of order `error_order` + 1 in h.

    Attributes
    ----------
    c : (s,)
        Row sums of A.
    b : (s,)
        Weights of the solution.
    predictor : (s, s)
        The initial guess of Newton's iteration for stage i is sum_j predictor[i, j] z_j.
    interpolant : (s, 4)
        Dense output of order 4 as in `Rosenbrock`, with z_i instead of u_i; its derivative is continuous.
    """

    name: str
    order: int
    gamma: float
    A: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    error_order: int
    source: str = field(repr=False)
    interpolant_order: int = 4

    @property
    def stages(self) -> int:
        return len(self.A)

    @property
    def end_stage(self) -> int:
        """Index of the stage that equals h f at the end of the step, which the next step reuses."""
        return self.stages - 1

    @property
    def b(self) -> np.ndarray:
        return self.A[-1]

    @cached_property
    def c(self) -> np.ndarray:
        c = self.A.sum(1)
        return np.where(abs(c - 1) < 1e-12, 1.0, c)  # exactly 1 for stages at the end, regardless of rounding

    @cached_property
    def predictor(self) -> np.ndarray:
        rows = np.zeros_like(self.A)
        for i in range(1, self.stages):
            rows[i, :i] = _extrapolation(self.c[:i], self.c[i])
        return rows

    @cached_property
    def interpolant(self) -> np.ndarray:
        return _quartic(self.A, self.c)


def _extrapolation(earlier: np.ndarray, time: float) -> np.ndarray:
    """Return weights that extrapolate slopes from `earlier` times to `time`, exactly for parabolas.

    If an earlier stage is at the same time, its slope is used instead (the last one if there are several).
    """
    same = np.flatnonzero(abs(earlier - time) < 1e-12)
    if same.size:
        return np.eye(len(earlier))[same[-1]]
    powers = np.arange(min(3, len(earlier)))[:, None]
    return np.linalg.lstsq(earlier**powers, (time**powers)[:, 0], rcond=None)[0]


def _quartic(A: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the dense output of order 4 that has the field's slopes at both ends and the smallest coefficients.

    It applies to methods of stage order 2, for which the order conditions up to order four are the following: the sums
    of b_i(theta) times 1, c, c^2, c^3 and A c^2 are theta, theta^2 / 2, theta^3 / 3, theta^4 / 4 and theta^4 / 12
    (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.1 and II.6).
    """
    s = len(c)
    conditions = np.stack([np.ones(s), c, c**2, c**3, A @ c**2])
    first, last = np.eye(s)[[0, -1]]
    # The columns p1 to p4 are the coefficients of theta to theta^4. p1 contains only the first stage; the equations
    # p2 + p3 + p4 = b - first and 2 p2 + 3 p3 + 4 p4 = last - first determine p2 and p3 from p4, which has its own
    # conditions.
    p4 = np.linalg.lstsq(conditions, np.array([0, 0, 0, 1 / 4, 1 / 12]), rcond=None)[0]
    total, slopes = A[-1] - first - p4, last - first - 4 * p4
    p3 = slopes - 2 * total
    return np.stack([first, total - p3, p3, p4], axis=1)


def _rosenbrock23() -> Rosenbrock:
    """Return MATLAB's ode23s in the form of `Rosenbrock`.

    The stages are u_1 = gamma h k_1, u_2 = gamma h (k_2 - k_1), and u_3, a combination of u_1, u_2 and k_3.
    """
    gamma, e = 1 / (2 + np.sqrt(2)), 6 + np.sqrt(2)
    return Rosenbrock(
        "Rosenbrock23",
        order=2,
        gamma=gamma,
        A=table("0; 1/2 0 0; 1 1") / gamma,
        C=np.array([[0, 0, 0], [-1, 0, 0], [-2, -e, 0]]) / gamma,
        c=np.array([0, 0.5, 1]),
        d=np.array([gamma, 0, -gamma]),
        b=np.array([1 / gamma, 1 / gamma, 0]),
        error=np.array([1, e - 2, 1]) / (6 * gamma),
        error_order=2,
        interpolant=np.array([[1, 0], [-2 * gamma / (1 - 2 * gamma), 1 / (1 - 2 * gamma)], [0, 0]]) / gamma,
        interpolant_order=2,
        source="L. F. Shampine, M. W. Reichelt, SIAM J. Sci. Comput. 18 (1997) 1-22",
    )


def _rodas5p() -> Rosenbrock:
    A = table("""
        0;
        3;
        2.849394379747939 0.45842242204463923;
        -6.954028509809101 2.489845061869568 -10.358996098473584;
        2.8029986275628964 0.5072464736228206 -0.3988312541770524 -0.04721187230404641;
        -7.502846399306121 2.561846144803919 -11.627539656261098 -0.18268767659942256 0.030198172008377946;
        -7.502846399306121 2.561846144803919 -11.627539656261098 -0.18268767659942256 0.030198172008377946 1;
        -7.502846399306121 2.561846144803919 -11.627539656261098 -0.18268767659942256 0.030198172008377946 1 1 0
    """)
    C = table("""
        0;
        -14.155112264123755;
        -17.97296035885952 -2.859693295451294;
        147.12150275711716 -1.41221402718213 71.68940251302358;
        165.43517024871676 -0.4592823456491126 42.90938336958603 -5.961986721573306;
        24.854864614690072 -3.0009227002832186 47.4931110020768 5.5814197821558125 -0.6610691825249471;
        30.91273214028599 -3.1208243349937974 77.79954646070892 34.28646028294783 -19.097331116725623
            -28.087943162872662;
        37.80277123390563 -3.2571969029072276 112.26918849496327 66.9347231244047 -40.06618937091002
            -54.66780262877968 -9.48861652309627 0
    """)
    b = A[7] + np.eye(8)[7]
    # The dense output is (1 - theta) y + theta (end + (1 - theta) (h_1 + theta (h_2 + theta h_3))), where each h_k is a
    # weighted sum of the u_i.
    h1, h2, h3 = table("""
        25.948786856663858 -2.5579724845846235 10.433815404888879 -2.3679251022685204 0.524948541321073
            1.1241088310450404 0.4272876194431874 -0.17202221070155493;
        -9.91568850695171 -0.9689944594115154 3.0438037242978453 -24.495224566215796 20.176138334709044
            15.98066361424651 -6.789040303419874 -6.710236069923372;
        11.419903575922262 2.8879645146136994 72.92137995996029 80.12511834622643 -52.072871366152654
            -59.78993625266729 -0.15582684282751913 4.883087185713722
    """)
    return Rosenbrock(
        "Rodas5P",
        order=5,
        gamma=0.21193756319429014,
        A=A,
        C=C,
        c=np.array([0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1, 1, 1]),
        d=table("""
            0.21193756319429014 -0.42387512638858027 -0.3384627126235924 1.8046452872882734 2.325825639765069 0 0 0
        """)[0],
        b=b,
        error=np.eye(8)[-1],
        error_order=4,
        interpolant=np.stack([b + h1, h2 - h1, h3 - h2, -h3], axis=1),
        interpolant_order=4,
        source="G. Steinebach, BIT Numer. Math. 63 (2023) 27",
    )


def _kvaerno5() -> SDIRK:
    A = table("""
        0;
        0.26 0.26;
        0.13 0.84033320996790809 0.26;
        0.22371961478320505 0.47675532319799699 -0.06470895363112615 0.26;
        0.16648564323248321 0.1045001884159172 0.03631482272098715 -0.13090704451073998 0.26;
        0.13855640231268224 0 -0.04245337201752043 0.02446657898003141 0.61943039072480676 0.26;
        0.13659751177640291 0 -0.05496908796538376 -0.04118626728321046 0.62993304899016403 0.06962479448202728 0.26
    """)
    return SDIRK(
        "Kvaerno5",
        order=5,
        gamma=0.26,
        A=A,
        error=A[6] - A[5],  # stage 6 is evaluated at the embedded solution
        error_order=4,
        source="A. Kvaerno, BIT Numer. Math. 44 (2004) 489-502, ESDIRK5/4b",
    )


def _kencarp4() -> SDIRK:
    A = table("""
        0;
        1/4 1/4;
        8611/62500 -1743/31250 1/4;
        5012029/34652500 -654441/2922500 174375/388108 1/4;
        15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4;
        82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4
    """)
    embedded = table("""
        4586570599/29645900160 0 178811875/945068544 814220225/1159782912 -3700637/11593932 61727/225920
    """)[0]
    return SDIRK(
        "KenCarp4",
        order=4,
        gamma=1 / 4,
        A=A,
        error=A[5] - embedded,
        error_order=3,
        source="C. A. Kennedy, M. H. Carpenter, Appl. Numer. Math. 44 (2003) 139-181, ARK4(3)6L[2]SA, implicit part",
    )


STIFF: dict[str, Rosenbrock | SDIRK] = {
    method.name: method for method in (_rosenbrock23(), _rodas5p(), _kvaerno5(), _kencarp4())
}
