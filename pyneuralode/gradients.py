"""The catalog of gradient methods: how the derivative of a solve is computed.

All give the derivative with respect to parameters, initial state and times. `gradient="Backprop"` and
`gradient=Backprop()` are the same; the class is for those who want to set something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .arguments import whole_number
from .errors import unknown_name


@dataclass(frozen=True)
class GradientMethod:
    """Base of the gradient methods; `engines` says which engine has one."""

    engines: ClassVar[tuple[str, ...]] = ("torch", "julia")


@dataclass(frozen=True)
class Backprop(GradientMethod):
    """Differentiate through the steps taken: exact for the discrete solution, memory grows with every stage.

    The default. May itself be differentiated again where the generic path runs (`compiled=False`) with an explicit solver;
    through the times and the times of events second derivatives are right, higher ones are not.
    """


@dataclass(frozen=True)
class Checkpointed(GradientMethod):
    """The same derivative as `Backprop` from far less memory, at the price of one more forward pass.

    The state is stored every `every` accepted steps; going back, each block is solved again and
    differentiated (discretize-then-optimize; ANODE, Gholami et al. 2019). What a module changes in itself, such as
    the running statistics of a batch normalization, it changes in both passes; `pyneuralode.ODEBlock` keeps that to the
    forward one.
    """

    every: int = 1

    def __post_init__(self):
        object.__setattr__(self, "every", whole_number("every", self.every))


@dataclass(frozen=True)
class BacksolveAdjoint(GradientMethod):
    """The continuous adjoint with the state solved backwards too (Chen et al. 2018): memory does not grow.

    Right only as far as the backward solve retraces the forward one: on stiff or strongly contracting problems
    it does not, and the gradient is wrong. `rtol` and `atol` are those of the backward solve, by default the
    forward one's.
    """

    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True)
class InterpolatingAdjoint(GradientMethod):
    """The continuous adjoint along the forward solution's own dense output, which is kept.

    Right where `BacksolveAdjoint` is not, since nothing is solved backwards but the adjoint itself; memory grows with the
    steps. `rtol` and `atol` are those of the adjoint's solve, by default the forward one's.
    """

    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True)
class GaussAdjoint(GradientMethod):
    """As `InterpolatingAdjoint`, the parameters' part by Gauss-Kronrod quadrature beside the adjoint (SciMLSensitivity).

    The backward solve carries the state's adjoint alone, which pays where there are many parameters.
    """

    engines: ClassVar[tuple[str, ...]] = ("julia",)
    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True)
class QuadratureAdjoint(GradientMethod):
    """As `InterpolatingAdjoint`, the parameters' part by adaptive quadrature after the adjoint's solve, which is kept too."""

    engines: ClassVar[tuple[str, ...]] = ("julia",)
    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True)
class ForwardMode(GradientMethod):
    """The sensitivities dy/dp and dy/dy0 solved forwards beside the state: the work grows with their number.

    They take the steps that the state takes alone (by Kvaerno5 and KenCarp4 their error counts too). For few parameters (say, up to a hundred with the components of the initial state).
    """


# Those that differentiate the steps taken: on the Julia engine those of explicit solvers, for described fields.
OF_STEPS = (Backprop, Checkpointed)

GRADIENTS: dict[str, type[GradientMethod]] = {
    kind.__name__: kind
    for kind in (
        Backprop,
        Checkpointed,
        BacksolveAdjoint,
        InterpolatingAdjoint,
        GaussAdjoint,
        QuadratureAdjoint,
        ForwardMode,
    )
}

_KINDS = frozenset(GRADIENTS.values())
_DEFAULTS = {name.lower(): kind() for name, kind in GRADIENTS.items()}


def find_gradient(gradient: str | GradientMethod) -> GradientMethod:
    """Return the gradient method for a name (matched without regard to case) or an instance of one of the catalog."""
    if type(gradient) in _KINDS:
        return gradient
    try:
        return _DEFAULTS[gradient.lower()]
    except (KeyError, AttributeError):
        name = type(gradient).__name__ if isinstance(gradient, GradientMethod) else gradient
        raise unknown_name("gradient", name, GRADIENTS) from None


def gradients_of(engine: str) -> list[str]:
    """Return the names of the gradient methods that an engine has."""
    return [name for name, kind in GRADIENTS.items() if engine in kind.engines]
