"""Vector fields written in Julia. Only the Julia engine solves them, and model files never contain their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...arguments import checked, real_array, whole_number
from ...errors import ArgumentError, kind_of
from ...fields import VectorField
from ...fields.base import Parameters, assign
from ...julia_source import read_source, without_source
from . import session


@dataclass(frozen=True)
class JuliaCode(VectorField, abstract=True):
    """Base class of the fields that are given as Julia source."""

    engines: ClassVar[tuple[str, ...]] = ("julia",)

    source: str = checked(read_source)
    name: str = field(default="", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.name, str):
            raise ArgumentError(f"name is {kind_of(self.name)}: give a string.")
        assign(self, name=self.name or type(self).__name__)

    def describe(self) -> dict:
        """Return a description without the source, which is represented by its SHA-256."""
        description = super().describe()
        return description | without_source(self.name, description.pop("source"))

    def request(self) -> dict[str, Any]:
        """Return the description that is sent to Julia, which includes the source."""
        return {**self.describe(), "source": self.source}

    def slope(self, t: Tensor, y: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return dy/dt, computed by Julia; autograd does not follow it."""
        rows = y.detach().reshape(-1, y.shape[-1]).numpy()
        values = {name: parameters[name].detach().numpy().astype(rows.dtype) for name in self.shapes()}
        request = {"field": self.request(), "u": rows.T, "t": float(t), "parameters": values}
        return torch.from_numpy(np.array(session.call("slope", request)["du"].T)).reshape(y.shape)


@dataclass(frozen=True)
class JuliaFunction(JuliaCode):
    """A vector field given by a function in Julia, such as ``(du, u, p, t) -> ...``.

    Evaluating the source must give a function of ``(du, u, p, t)`` that sets every component of ``du``, or one of
    ``(u, p, t)`` that returns it. It is called with one state ``u`` (dim,) and with the parameters ``p`` by name
    (``p.a``, or ``a, b = p``). Derivatives come from dual numbers, so it must accept numbers of any type. The packages
    LinearAlgebra, Lux, NNlib and Random can be used without an import.

    Parameters
    ----------
    source : str or Path
        Julia source, the path of a file that ends in .jl, or ``"Module:name"`` for a function in a Julia package of the
        environment.
    dim : int
        The number of state components.
    parameters : mapping of str to float or array
        The initial values of the parameters.
    name : str
        A name for messages and for model files, which contain it in place of the source.

    Raises
    ------
    ArgumentError
        If the source does not parse or throws an error (the message gives Julia's own message and the line), or if the
        function does not return a state of `dim` components.
    EngineError
        If there is no Julia; the message says what to do.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> source = "(du, u, p, t) -> (du[1] = u[2]; du[2] = -p.stiffness * u[1])"
    >>> spring = pn.JuliaFunction(source, dim=2, parameters={"stiffness": 4.0})  # doctest: +SKIP
    >>> pn.solve(spring, [1.0, 0.0], [0.0, 1.0], solver="Vern7").ys[-1]  # doctest: +SKIP
    array([-0.41614684, -1.81859485])
    """

    dim: int = checked(whole_number, 1)  # pyright: ignore[reportIncompatibleMethodOverride]
    parameters: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        super().__post_init__()
        assign(self, parameters=_read_parameters(self.parameters))
        session.call("examine", {"field": self.request(), "parameters": self.initial()})

    def request(self) -> dict[str, Any]:
        return super().request() | {"shapes": [[name, list(shape)] for name, shape in self.shapes().items()]}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: np.shape(value) for name, value in self.parameters}

    def initial(self, seed: int = 0) -> Parameters:
        return {name: np.array(value, dtype=float) for name, value in self.parameters}


@dataclass(frozen=True)
class LuxModel(JuliaCode):
    """A vector field given by a Lux model in Julia: dy/dt is the model's output for the state y.

    The model is used with its initial state, in test mode, and does not receive the time. Its parameters have the
    names of its layers, joined by underscores, such as ``layer_1_weight``, and are drawn by Lux. A chain of dense
    layers and functions is differentiated by hand-written products, any other model by Zygote.

    Parameters
    ----------
    source : str or Path
        Julia source of the model, the path of a file that ends in .jl, or ``"Module:name"`` for a model in a Julia
        package of the environment. LinearAlgebra, Lux, NNlib and Random can be used without an import.
    dim : int, optional
        The number of state components; by default the number that the first dense layer takes.
    name : str
        A name for messages and for model files, which contain it in place of the source.

    Raises
    ------
    ArgumentError
        If the source does not parse, throws an error, is not a Lux model, or does not return a state of `dim` components.
    EngineError
        If there is no Julia; the message says what to do.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> net = pn.LuxModel("Chain(x -> x .^ 3, Dense(2 => 50, tanh), Dense(50 => 2))")  # doctest: +SKIP
    >>> net.shapes()  # doctest: +SKIP
    {'layer_2_weight': (50, 2), 'layer_2_bias': (50,), 'layer_3_weight': (2, 50), 'layer_3_bias': (2,)}
    """

    dim: int | None = None  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self):
        super().__post_init__()
        if self.dim is not None:
            assign(self, dim=whole_number("dim", self.dim))
        assign(self, dim=self._layout[0])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._layout[1])

    def initial(self, seed: int = 0) -> Parameters:
        drawn = self._examine(seed)["parameters"]
        return {name: np.array(drawn[name], order="C") for name in self.shapes()}

    @cached_property
    def _layout(self) -> tuple[int, dict[str, tuple[int, ...]]]:
        """The dimension, and the shapes of the parameters by name."""
        reply = self._examine(0)
        return reply["dim"], {name: reply["parameters"][name].shape for name in reply["order"]}

    def _examine(self, seed: int) -> dict[str, Any]:
        return session.call("examine", {"field": self.request(), "seed": seed})


def _read_parameters(parameters: Any) -> tuple[tuple[str, Any], ...]:
    """Return parameters as pairs of name and value, with arrays as nested tuples."""
    try:
        pairs = dict(parameters).items()
    except (TypeError, ValueError):
        raise ArgumentError(f"parameters is {kind_of(parameters)}: give a mapping, such as {{'rate': 1.0}}.") from None
    for name, _ in pairs:
        if not (isinstance(name, str) and name.isidentifier()):
            raise ArgumentError(
                f"parameters has the name {name!r}, which is not an identifier: use one, such as 'rate'."
            )
    return tuple((name, _nested(real_array(name, value).astype(float).tolist())) for name, value in pairs)


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list) else value
