"""Vector fields: descriptions of a right-hand side, independent of the engine, with a registry and a JSON form.

A field is a small frozen dataclass. It knows the dimension of the state, the names, shapes and order of its
parameters, and their initial values (from a seeded NumPy generator, so that every engine starts from the same numbers).
From this description, each engine builds the function that it integrates.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..arguments import Checked
from ..errors import ArgumentError, ModelFileError, nearest_name

if TYPE_CHECKING:
    from torch import Tensor

Parameters = dict[str, np.ndarray]

_REGISTRY: dict[str, type[VectorField]] = {}


@dataclass(frozen=True)
class VectorField(Checked):
    """Base class of all vector fields ``dy/dt = f(t, y; parameters)``, built-in or user-defined.

    A subclass is a frozen dataclass of numbers, strings and tuples of these, so that its instances can be written as
    JSON. It is registered under its class name when it is defined: models with such a field can be saved, and loaded
    again once the module that defines the class has been imported. A class that only serves as a base for others is
    defined with ``abstract=True`` and is not registered.

    A subclass provides

    1. ``dim``: the number of state components (the length of the state's last axis), as an attribute, property or
       dataclass field;
    2. ``shapes()``: the names and shapes of its parameters, in the order that all engines use (default: none);
    3. ``initial(seed)``: the initial parameters as float64 arrays of those shapes (default: none);
    4. ``slope(t, y, parameters)``: dy/dt, computed with torch operations.

    The torch engine solves such a field without compiled code; all of its solvers and gradient methods are available.

    Raises
    ------
    ArgumentError
        If a class is defined without ``dim``, under the name of another registered class, or with a ``slope`` that
        engines would not call, because they have built-in code for its base class.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> import torch
    >>> import pyneuralode as pn
    >>> @dataclass(frozen=True)
    ... class Pendulum(pn.VectorField):
    ...     damping: float = 0.5
    ...     dim = 2
    ...
    ...     def shapes(self):
    ...         return {"damping": ()}
    ...
    ...     def initial(self, seed=0):
    ...         return {"damping": np.array(self.damping)}
    ...
    ...     def slope(self, t, y, parameters):
    ...         angle, speed = y.unbind(-1)
    ...         return torch.stack([speed, -torch.sin(angle) - parameters["damping"] * speed], dim=-1)
    >>> solution = pn.solve(Pendulum(), [1.0, 0.0], [0.0, 1.0, 2.0], engine="torch")
    >>> solution.ys.round(3)
    array([[ 1.   ,  0.   ],
           [ 0.658, -0.595],
           [ 0.012, -0.595]])
    >>> model = pn.NeuralODE(Pendulum(damping=0.3), engine="torch")
    >>> model.save("pendulum.safetensors")
    >>> pn.load("pendulum.safetensors").field
    Pendulum(damping=0.3)
    """

    if TYPE_CHECKING:  # at run time, this would become the default of a subclass's field `dim`

        @property
        def dim(self) -> int: ...

    # The engines that can solve fields of this class.
    engines: ClassVar[tuple[str, ...]] = ("torch", "julia")

    def __init_subclass__(cls, abstract: bool = False, **arguments: Any):
        super().__init_subclass__(**arguments)
        if not abstract:
            _register(cls)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters by name, in the order that all engines use."""
        return {}

    def initial(self, seed: int = 0) -> Parameters:
        """Return the initial parameters by name, as float64 arrays with the shapes of `shapes()`."""
        return {}

    def slope(self, t: Tensor, y: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return dy/dt, a tensor like `y`.

        User-defined fields implement this method; engines have built-in code for the other fields.

        Parameters
        ----------
        t : tensor ()
            The time.
        y : tensor (..., dim)
            The state; any leading axes index independent samples.
        parameters : mapping of str to tensor
            The parameters by name, with the shapes of `shapes()`.
        """
        name = type(self).__name__
        raise ArgumentError(
            f"{name} has no slope: define the method slope(self, t, y, parameters), which returns dy/dt."
        )

    def describe(self) -> dict:
        """Return a description of the field as JSON values, which `from_description` reads back.

        Raises ArgumentError for a class that is not a dataclass, because its values would be lost.
        """
        name = type(self).__name__
        if "__dataclass_fields__" not in vars(type(self)):
            raise ArgumentError(f"{name} is not a dataclass: write @dataclass(frozen=True) above the class.")
        if not is_registered(type(self)):
            raise ArgumentError(
                f"{name} is not the class registered under its name, so a saved field could not be loaded: create the "
                "field from the current class, which must be defined without abstract=True."
            )
        values = dataclasses.asdict(self)
        return {"kind": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def _register(cls: type[VectorField]) -> None:
    name = cls.__name__
    dataclass_fields = {**getattr(cls, "__dataclass_fields__", {}), **inspect.get_annotations(cls)}
    if not hasattr(cls, "dim") and "dim" not in dataclass_fields:
        raise ArgumentError(
            f"{name} does not define its dimension: add an attribute, property or dataclass field `dim`."
        )
    if cls.slope is not VectorField.slope:
        for base in cls.__mro__[1:]:
            if is_registered(base) and base.__module__.startswith(f"{__package__}."):
                raise ArgumentError(
                    f"{name} defines slope, but engines solve {base.__name__} fields with built-in code: derive {name} from "
                    "VectorField, or leave slope out."
                )
    other = _REGISTRY.get(name, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ArgumentError(
            f"{cls.__module__} defines a vector field {name}, but that is already the name of "
            f"{other.__module__}.{other.__qualname__}: rename one of the two."
        )
    _REGISTRY[name] = cls  # a class that is defined again, as in a notebook, replaces the previous one


def is_registered(cls: type) -> bool:
    """Return whether this class is the one registered under its name."""
    return _REGISTRY.get(cls.__name__) is cls


def registered_fields() -> dict[str, type[VectorField]]:
    """Return the registered classes by name, in the order in which they were defined."""
    return dict(_REGISTRY)


def from_description(description: Mapping[str, Any]) -> VectorField:
    """Return the field with the given description, as returned by `VectorField.describe`.

    Raises
    ------
    ModelFileError
        If no imported module defines a field of that name.
    ArgumentError
        If the class does not accept the described values.
    """
    values = dict(description)
    kind = values.pop("kind", None)
    if kind not in _REGISTRY:
        near = nearest_name(kind, _REGISTRY)
        hint = f"the most similar known name is {near}" if near else f"known names are {', '.join(_REGISTRY)}"
        raise ModelFileError(
            f"the class of the field is {kind}, which no imported module defines ({hint}): import the module that defines {kind}, "
            "then load the model again."
        )
    known = dataclasses.fields(_REGISTRY[kind])
    accepted = {setting.name for setting in known if setting.init}
    for derived in {setting.name for setting in known} - accepted:  # derived values are recomputed
        values.pop(derived, None)
    for name in values:
        if name not in accepted:
            raise ArgumentError(f"{kind} has no argument {name!r}: its arguments are {', '.join(sorted(accepted))}.")
    return _REGISTRY[kind](**{name: _with_tuples(value) for name, value in values.items()})


def _with_tuples(value: Any) -> Any:
    """Return a JSON value with its lists converted back to tuples."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def assign(instance: object, **values: Any) -> None:
    """Set attributes of a frozen dataclass; use this only during its construction."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)
