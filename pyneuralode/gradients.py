"""The catalog of gradient methods: how the derivative of a solve is computed.

Every method computes derivatives with respect to parameters, initial state and times. `gradient="Backprop"` and
`gradient=Backprop()` are equivalent; use the class to change a method's settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from .arguments import Checked, checked, whole_number
from .errors import ArgumentError, unknown_name
from .julia_source import is_call, read_source


@dataclass(frozen=True)
class GradientMethod(Checked):
    """Base class of the gradient methods; `engines` names the engines that support the method."""

    engines: ClassVar[tuple[str, ...]] = ("torch", "julia")


@dataclass(frozen=True)
class Backprop(GradientMethod):
    """Differentiation through the solver's steps: exact for the discrete solution; memory grows with the stage count.

    This is the default. Its gradient can be differentiated again on the generic path (`compiled=False`) with an
    explicit solver. Derivatives with respect to times, and derivatives of event times, are correct up to second order
    only.

    Examples
    --------
    >>> import torch
    >>> import pyneuralode as pn
    >>> k = torch.tensor(0.5, requires_grad=True)
    >>> times, named = [0.0, 1.0], {"k": k}
    >>> ys = pn.solve(lambda t, y: -k * y, torch.ones(1), times, parameters=named, gradient="Backprop").ys
    >>> ys[-1].backward()
    >>> round(k.grad.item(), 3)
    -0.607
    """


@dataclass(frozen=True)
class Checkpointed(GradientMethod):
    """The same derivative as `Backprop` with far less memory, at the cost of one more forward pass.

    The state is stored once per `every` accepted steps. The backward pass solves each block again and differentiates
    it (discretize-then-optimize; ANODE, Gholami et al. 2019). A module that updates its own state when called, such as
    the running statistics of batch normalization, is updated in both passes; in a `pyneuralode.ODEBlock` it is updated
    in the forward pass only.

    Examples
    --------
    >>> import torch
    >>> import pyneuralode as pn
    >>> k = torch.tensor(0.5, requires_grad=True)
    >>> times, named = [0.0, 1.0], {"k": k}
    >>> ys = pn.solve(lambda t, y: -k * y, torch.ones(1), times, parameters=named, gradient=pn.Checkpointed(every=10)).ys
    >>> ys[-1].backward()
    >>> round(k.grad.item(), 3)
    -0.607
    """

    every: int = checked(whole_number, 1)


@dataclass(frozen=True)
class _Adjoint(GradientMethod):
    """Base class of the continuous adjoints, which have their own tolerances."""

    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True)
class BacksolveAdjoint(_Adjoint):
    """The continuous adjoint method, with the state also solved backward (Chen et al. 2018): constant memory.

    The gradient is correct only where the backward solve retraces the forward one. On stiff or strongly contracting
    problems it does not, and the gradient is wrong. `rtol` and `atol` are the tolerances of the backward solve; by
    default they are those of the forward solve.

    Examples
    --------
    >>> import torch
    >>> import pyneuralode as pn
    >>> k = torch.tensor(0.5, requires_grad=True)
    >>> times, named = [0.0, 1.0], {"k": k}
    >>> ys = pn.solve(lambda t, y: -k * y, torch.ones(1), times, parameters=named, gradient="BacksolveAdjoint").ys
    >>> ys[-1].backward()
    >>> round(k.grad.item(), 3)
    -0.607
    """


@dataclass(frozen=True)
class InterpolatingAdjoint(_Adjoint):
    """The continuous adjoint method, with states interpolated from the stored forward solve.

    The gradient is correct even where `BacksolveAdjoint` is wrong, since only the adjoint is solved backward.
    Memory grows with the number of steps. `rtol` and `atol` are the tolerances of the adjoint solve; by default they
    are those of the forward solve.

    Examples
    --------
    >>> import torch
    >>> import pyneuralode as pn
    >>> k = torch.tensor(0.5, requires_grad=True)
    >>> times, named = [0.0, 1.0], {"k": k}
    >>> ys = pn.solve(lambda t, y: -k * y, torch.ones(1), times, parameters=named, gradient="InterpolatingAdjoint").ys
    >>> ys[-1].backward()
    >>> round(k.grad.item(), 3)
    -0.607
    """


@dataclass(frozen=True)
class GaussAdjoint(_Adjoint):
    """`InterpolatingAdjoint` with the parameters' gradient computed by Gauss-Kronrod quadrature (SciMLSensitivity).

    The quadrature runs during the backward solve, which contains only the adjoint of the state. This pays off when
    there are many parameters.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> model = pn.NeuralODE(pn.MLP((2, 50, 2)), gradient=pn.GaussAdjoint(rtol=1e-8))  # solved by the Julia engine
    >>> model.gradient
    GaussAdjoint(rtol=1e-08, atol=None)
    """

    engines: ClassVar[tuple[str, ...]] = ("julia",)


@dataclass(frozen=True)
class QuadratureAdjoint(_Adjoint):
    """`InterpolatingAdjoint` with the parameters' gradient computed by adaptive quadrature after the adjoint solve.

    The dense output of the adjoint solve is stored as well.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> model = pn.NeuralODE(pn.MLP((2, 50, 2)), gradient=pn.QuadratureAdjoint(rtol=1e-8))  # solved by the Julia engine
    >>> model.gradient
    QuadratureAdjoint(rtol=1e-08, atol=None)
    """

    engines: ClassVar[tuple[str, ...]] = ("julia",)


@dataclass(frozen=True)
class ForwardMode(GradientMethod):
    """Forward mode: the sensitivities dy/dp and dy/dy0 are solved along with the state.

    The work grows with the total number of parameters and components of the initial state: use this method for up to
    about a hundred of them. The steps are the same as without sensitivities, except that with Kvaerno5 and KenCarp4
    the errors of the sensitivities also affect the step sizes.

    Examples
    --------
    >>> import torch
    >>> import pyneuralode as pn
    >>> k = torch.tensor(0.5, requires_grad=True)
    >>> times, named = [0.0, 1.0], {"k": k}
    >>> ys = pn.solve(lambda t, y: -k * y, torch.ones(1), times, parameters=named, gradient="ForwardMode").ys
    >>> ys[-1].backward()
    >>> round(k.grad.item(), 3)
    -0.607
    """


@dataclass(frozen=True)
class JuliaAdjoint(GradientMethod):
    """An adjoint of SciMLSensitivity, given by Julia source such as ``GaussAdjoint(autojacvec=ReverseDiffVJP(true))``.

    ``gradient="GaussAdjoint(autojacvec=ReverseDiffVJP(true))"`` is equivalent. The vector-Jacobian products are those
    that the source selects, instead of this package's own.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> pn.gradients.find_gradient("GaussKronrodAdjoint(autojacvec=ZygoteVJP())")
    JuliaAdjoint(source='GaussKronrodAdjoint(autojacvec=ZygoteVJP())')
    """

    engines: ClassVar[tuple[str, ...]] = ("julia",)

    source: str = checked(read_source)


# Methods that differentiate the steps of the solver. The Julia engine supports them for explicit solvers and
# described fields.
OF_STEPS = (Backprop, Checkpointed)

_KINDS = (Backprop, Checkpointed, BacksolveAdjoint, InterpolatingAdjoint, GaussAdjoint, QuadratureAdjoint, ForwardMode)
GRADIENTS: dict[str, type[GradientMethod]] = {kind.__name__: kind for kind in _KINDS}
_DEFAULTS = {name.lower(): kind() for name, kind in GRADIENTS.items()}


def find_gradient(gradient: str | GradientMethod) -> GradientMethod:
    """Return the gradient method with the given name, ignoring case; an instance of a method is returned as it is.

    A name that is a call in Julia gives a `JuliaAdjoint`.
    """
    if type(gradient) in (*_KINDS, JuliaAdjoint):
        return gradient
    if is_call(gradient):
        return _adjoint_from_source(gradient)
    try:
        return _DEFAULTS[gradient.lower()]
    except (KeyError, AttributeError):
        if isinstance(gradient, type) and gradient in _KINDS:
            raise ArgumentError(f"gradient is the class {gradient.__name__}: write {gradient.__name__}().") from None
        if isinstance(gradient, GradientMethod):
            gradient = type(gradient).__name__
            if gradient in GRADIENTS:
                raise ArgumentError(
                    f"gradient is a custom class {gradient}, which no engine supports: use the built-in method, gradient={gradient!r}."
                ) from None
        raise unknown_name("gradient", gradient, GRADIENTS) from None


@lru_cache(maxsize=64)  # the same object each time, by which prepared problems are found again
def _adjoint_from_source(source: str) -> JuliaAdjoint:
    return JuliaAdjoint(source)


def gradients_of(engine: str) -> list[str]:
    """Return the names of the gradient methods that an engine supports."""
    return [name for name, kind in GRADIENTS.items() if engine in kind.engines]
