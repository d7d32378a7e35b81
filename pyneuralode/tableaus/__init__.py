"""The explicit Runge-Kutta methods shared by both engines, by their SciML names."""

from .dp5 import DP5
from .dp8 import DP8
from .low_order import BS3, EULER, HEUN, MIDPOINT, RK4, RK38
from .tableau import Tableau
from .tsit5 import TSIT5
from .vern7 import VERN7

__all__ = ["TABLEAUS", "Tableau"]

TABLEAUS: dict[str, Tableau] = {
    tableau.name: tableau for tableau in (EULER, MIDPOINT, HEUN, RK4, RK38, BS3, DP5, TSIT5, VERN7, DP8)
}
