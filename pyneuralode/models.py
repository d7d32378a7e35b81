"""Models (a vector field with a solver, a gradient method and an engine), and `solve` for a single solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .arguments import real_number, real_tensor, whole_number
from .engines.backend import Prepared
from .engines.registry import PreparedProblems, Settings, choose_engine
from .engines.selection import Julia, path_of
from .engines.torch_engine.dynamics import with_hints
from .engines.torch_engine.generic import slope
from .errors import ArgumentError, kind_of, unknown_name
from .fields import VectorField, from_description
from .gradient_check import GradientCheck, check_gradient
from .gradients import GradientMethod, JuliaAdjoint, find_gradient
from .julia_source import call_without_source
from .model_files import write_model_file
from .problem import BATCHES, Event, Solution, make_control, read_events
from .problem.problem import check_field
from .problem.values import check_finite
from .solvers import find_solver
from .tableaus import Tableau

_PREPARED = PreparedProblems()


def solve(
    f: VectorField | nn.Module | Callable,
    y0: Any,
    ts: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    solver: str | Tableau = "Tsit5",
    gradient: str | GradientMethod = "Backprop",
    engine: str | Julia = "auto",
    dense: bool = False,
    compiled: bool = True,
    batch: str = "joint",
    events: Event | Sequence[Event] = (),
    jacobian: Callable | None = None,
    seed: int = 0,
    **control: Any,
) -> Solution:
    """Solve the initial-value problem ``dy/dt = f(t, y)``, ``y(ts[0]) = y0``.

    Parameters
    ----------
    f : VectorField, torch.nn.Module or callable
        A described field (a `VectorField`), or ``f(t, y)`` that returns dy/dt in the shape of y (torch tensors, t of
        shape ()). With a NumPy y0, f may also be a function of NumPy arrays (t a float), as in SciPy; gradients are
        not available then. f is first called with tensors; if this fails or returns something other than a tensor (such
        as an array or a list), f and the conditions of events are called with arrays from then on.
        A solver evaluates f only at some times, so it can step over a pulse that is shorter than a step. To prevent
        this, list the times at which the pulse begins and ends in `tstops`, or set `max_step` shorter than the pulse.
    y0 : array, tensor or tuple of these
        Initial state of any shape; for a described field, (..., dim). Its dtype is the dtype of the solve. A NumPy
        state gives a NumPy solution; a torch state gives a torch solution that autograd can differentiate.
    ts : array or tensor (T,)
        The times at which the state is returned, increasing or decreasing; the solve starts at ``ts[0]``. With
        ``batch="independent"`` also an array (B, T) with a row of times per sample, or a list of B arrays of any
        lengths.
    parameters : mapping, optional
        Parameters by name. For a described field: its parameters (default: initial values, drawn with `seed`). For a
        callable: the tensors it depends on. A module uses its own parameters by default.
    solver : str or Tableau
        A name in `pyneuralode.solvers.SOLVERS`, your own explicit Runge-Kutta method, or Julia source of another solver
        of SciML, such as "QNDF(autodiff=false)". The module
        `pyneuralode.solvers` describes the attributes of a field that stiff solvers use (`jacobian`, `samplewise`,
        `matrix_free`). Do not use "DP8" for stiff problems: states at the ends of its steps are accurate, but states
        between them were wrong by up to 5,000 times the tolerance in tests (60 times with SciPy's DOP853).
    gradient : str or GradientMethod
        The name of a method in `pyneuralode.gradients`, an instance of one, or Julia source of an adjoint of
        SciMLSensitivity, such as "GaussAdjoint(autojacvec=ReverseDiffVJP(true))".
    engine : {"auto", "torch", "julia"} or Julia
        "auto" uses Julia if it is installed, ready and supports the problem, and torch otherwise. `pyneuralode.Julia`
        also selects one of the Julia engine's code paths.
    dense : bool
        Keep the data needed to evaluate the solution at any time. The solve then uses the generic path and `Backprop`,
        and solvers for stiff problems shorten their steps where their interpolants require it.
    compiled : bool
        Use compiled code where it applies (described fields on the CPU). On the Julia engine this includes hand-written
        vector-Jacobian products; with ``compiled=False`` they come from automatic differentiation.
    batch : {"joint", "independent"}
        "joint" solves y0 as one system with one step size. "independent" treats y0 (B, *state) as B samples, each with
        its own steps, error control, times and end, as in a separate solve. The field is evaluated for all samples at
        once: ``f(t, y)`` with y (B, *state) and t (B, 1, ...), which broadcasts against y. Solvers for stiff problems
        and switching solvers evaluate it for one sample at a time, as a batch of one. The parameters of a described
        field may have a leading axis B, with values for each sample. Supported gradients: `Backprop` and
        `Checkpointed`.
    events : Event or sequence of Event
        Events to detect; ``Solution.events`` contains those that occurred, with their times and states. A terminal
        event ends the solve, and the solution leaves out the times after it.
    jacobian : callable, optional
        For stiff solvers and a callable f: ``jacobian(t, y)`` returns df/dy of shape (*y.shape, *y.shape). By default
        the Jacobian comes from autograd, or from finite differences for a function of NumPy arrays.
    seed : int
        Seed of the initial parameters of a described field.
    **control
        `rtol`, `atol`, `norm`, `step_size`, `first_step`, `min_step`, `max_step`, `max_steps`, `tstops`: see
        `pyneuralode.Control`.

    Returns
    -------
    Solution
        ``ys`` has shape (T, *y0.shape), or is a tuple of such arrays; see `Solution` for the shapes with
        ``batch="independent"``.

    Raises
    ------
    ArgumentError
        If an argument is invalid or arguments are incompatible; the message says what to change.
    SolverError
        If the solve fails before the last time.

    Examples
    --------
    >>> import numpy as np
    >>> import pyneuralode as pn
    >>> solution = pn.solve(lambda t, y: -0.5 * y, np.array([2.0]), [0.0, 2.0, 4.0], solver="Vern7")
    >>> solution.ys.round(4)
    array([[2.    ],
           [0.7358],
           [0.2707]])
    """
    if jacobian is not None:
        f = _with_jacobian(f, jacobian)
    if parameters is None:
        parameters = _starting_parameters(f, seed)
    settings = Settings(
        f,
        solver if isinstance(solver, Tableau) else find_solver(solver),
        find_gradient(gradient),
        make_control(control),
        dense,
        compiled,
        batch,
        read_events(events),
        path=path_of(engine),
    )
    # Only prepared problems of described fields are kept for the next call: any other field may refer to objects of any
    # size, which would stay in memory.
    prepared = _PREPARED if isinstance(f, VectorField) else PreparedProblems()
    return prepared.find(settings, engine, parameters, y0, ts).run(parameters, y0, ts)


def _starting_parameters(f: Any, seed: int) -> Mapping[str, Any]:
    if isinstance(f, VectorField):
        return f.initial(whole_number("seed", seed, 0))
    return dict(f.named_parameters()) if isinstance(f, nn.Module) else {}


def _with_jacobian(f: Any, jacobian: Any) -> Callable:
    if not callable(jacobian):
        raise ArgumentError(f"jacobian is {kind_of(jacobian)}: give a function of (t, y) that returns an array.")
    if isinstance(f, (VectorField, nn.Module)):
        remedy = (
            "leave jacobian out" if isinstance(f, VectorField) else "define it as the module's method jacobian(t, y)"
        )
        raise ArgumentError(f"jacobian is given for {kind_of(f)}, not for a plain function: {remedy}.")
    return with_hints(partial(f), f, jacobian=jacobian)


class NeuralODE(nn.Module):
    """A vector field with trainable parameters, solved as an initial-value problem.

    ``model(y0, ts)`` returns the states (T, *y0.shape); ``model.solve(y0, ts)`` returns the whole `Solution`.

    Parameters
    ----------
    field : VectorField, torch.nn.Module or callable
        The right-hand side f(t, y); see `solve`.
    solver, gradient, engine, compiled, batch, **control
        As in `solve`.
    seed : int
        Seed of the initial parameters of a `VectorField`.
    dtype : torch.dtype
        Dtype in which the parameters of a `VectorField` are stored; a solve runs in the dtype of its initial state.

    Examples
    --------
    >>> import torch
    >>> import pyneuralode as pn
    >>> model = pn.NeuralODE(pn.MLP((2, 16, 2), "tanh"), solver="Tsit5", rtol=1e-4, atol=1e-4)
    >>> ys = model(torch.tensor([1.0, 0.0]), torch.linspace(0, 1, 5))
    >>> ys.square().sum().backward()
    >>> ys.shape, model.weights["weight_1"].grad.shape
    (torch.Size([5, 2]), torch.Size([16, 2]))
    """

    # Names of the attributes of a subclass that are saved with the model and passed to its constructor on loading.
    SAVED: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        field: VectorField | nn.Module | Callable,
        *,
        solver: str | Tableau = "Tsit5",
        gradient: str | GradientMethod = "Backprop",
        engine: str | Julia = "auto",
        compiled: bool = True,
        batch: str = "joint",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        **control: Any,
    ):
        super().__init__()
        if not isinstance(solver, Tableau):
            solver = find_solver(solver).name
        choose_engine(engine)
        self.field, self.solver, self.engine, self.compiled = field, solver, engine, compiled
        self.batch = batch
        self.gradient = find_gradient(gradient)
        self.control = make_control(control)
        if not dtype.is_floating_point:
            raise ArgumentError(f"dtype is {dtype}: give torch.float64 or torch.float32.")
        self.weights = nn.ParameterDict()
        if isinstance(field, VectorField):
            for name, value in _starting_parameters(field, seed).items():
                if hasattr(self.weights, name):
                    raise ArgumentError(
                        f"a parameter has the name {name!r}, which torch reserves: rename it to {name}_."
                    )
                self.weights[name] = nn.Parameter(torch.as_tensor(value, dtype=dtype))
        else:
            check_field(field)
        if batch not in BATCHES:
            raise unknown_name("batch", batch, BATCHES)
        self.prepared = PreparedProblems()

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters of the field by name, in the documented order."""
        if isinstance(self.field, nn.Module):
            return dict(self.field.named_parameters())
        # Equivalent to self.weights.items(), but ten times faster.
        return {name: value for name, value in self.weights._parameters.items() if value is not None}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters of the field as NumPy arrays by name, in the documented order."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.tensors().items()}

    @torch.no_grad()
    def set_arrays(self, parameters: Mapping[str, Any]) -> None:
        """Set the parameters of the field from finite arrays or tensors. Names and shapes must match ``arrays()``."""
        tensors = self.tensors()
        if set(parameters) != set(tensors):
            odd = min(set(parameters) ^ set(tensors))
            raise ArgumentError(f"parameters has a missing or unknown name, {odd!r}: use exactly {', '.join(tensors)}.")
        found = {name: real_tensor(name, value).to(tensors[name].dtype) for name, value in parameters.items()}
        for name, value in found.items():
            if value.shape != tensors[name].shape:
                raise ArgumentError(f"{name} has shape {tuple(value.shape)}: use shape {tuple(tensors[name].shape)}.")
            check_finite(name, value)
        for name, value in found.items():
            tensors[name].copy_(value)

    def initial_state(self, y0: Any) -> Any:
        """Return the state from which a solve starts, computed from the user's `y0`; here it is `y0` itself."""
        return y0

    def prepare(
        self,
        y0: Any,
        ts: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        dense: bool = False,
        events: Event | Sequence[Event] = (),
    ) -> Prepared:
        """Prepare the model's problem for repeated solves with values of these shapes and dtypes, such as in a loop.

        ``model.prepare(y0, ts).solve(parameters, initial_state, ts)`` returns the same as `solve`, but checks only the
        values. The model keeps the prepared problem until something that the problem depends on changes.
        """
        parameters = self.tensors() if parameters is None else parameters
        return self.prepared.find(self.settings(dense, events), self.engine, parameters, self.initial_state(y0), ts)

    def settings(self, dense: bool = False, events: Event | Sequence[Event] = ()) -> Settings:
        """Return the settings of the model's solves: everything except the values and the engine."""
        solver = self.solver if isinstance(self.solver, Tableau) else find_solver(self.solver)
        watched = () if events == () else read_events(events)
        return Settings(
            self.field,
            solver,
            self.gradient,
            self.control,
            dense,
            self.compiled,
            self.batch,
            watched,
            path=path_of(self.engine),
        )

    def solve(
        self,
        y0: Any,
        ts: Any,
        *,
        t0: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        dense: bool = False,
        events: Event | Sequence[Event] = (),
    ) -> Solution:
        """Solve from `y0` over the times `ts`, with the model's own parameters unless `parameters` is given.

        `y0` is the state at ``ts[0]``, or at `t0` if it is given. `dense` and `events` are as in `pyneuralode.solve`.
        """
        if t0 is not None:
            return self._solve_from(real_number("t0", t0), y0, ts, parameters=parameters, dense=dense, events=events)
        parameters = self.tensors() if parameters is None else parameters
        start = self.initial_state(y0)
        prepared = self.prepared.find(self.settings(dense, events), self.engine, parameters, start, ts)
        return prepared.run(parameters, start, ts)

    def _solve_from(self, t0: float, y0: Any, ts: Any, **settings: Any) -> Solution:
        if np.ndim(ts[0]):
            raise ArgumentError(
                f"t0 is {t0}, but every sample has its own times: leave t0 out and start each row of ts with that sample's initial time."
            )
        if t0 == float(ts[0]):
            return self.solve(y0, ts, **settings)
        if isinstance(ts, Tensor):
            own = torch.cat([ts.new_tensor([t0], dtype=torch.float64), ts])
        else:
            own = np.concatenate([[t0], ts])
        whole = self.solve(y0, own, **settings)
        states = tuple(part[1:] for part in whole.ys) if isinstance(whole.ys, tuple) else whole.ys[1:]
        return replace(whole, ts=whole.ts[1:], ys=states)

    def forward(self, y0: Any, ts: Any) -> Any:
        return self.solve(y0, ts).ys

    def slope(self, t: float, y: Any) -> Any:
        """Return dy/dt at time `t` and state `y`, a NumPy array or torch tensor that includes any added components."""
        return slope(self.field, self.tensors(), t, y)

    def check_gradient(self, y0: Any, ts: Any, **settings: Any) -> GradientCheck:
        """Print and return a table of the error, time and peak memory of every gradient method.

        Gradients of the model at its own tolerance, in float64, are compared with central differences of solves with
        tight tolerances, along random directions in the space of the parameters and the initial state.

        Parameters
        ----------
        y0, ts
            As in ``model(y0, ts)``.
        loss : callable, optional
            ``loss(ys)`` returns a tensor of shape (); default: the sum of squares.
        methods : sequence of str or GradientMethod, optional
            Default: all methods that the model's engine supports with the model's `batch`.
        directions, seed : int
            The number of random directions, and the seed for drawing them.
        """
        check = check_gradient(self, y0, ts, **settings)
        print(check)
        return check

    def save(self, path: str | Path) -> None:
        """Write the model to one safetensors file: its arrays, and its description as JSON in the header."""
        if not isinstance(self.field, VectorField):
            raise ArgumentError(
                f"the field is {kind_of(self.field)}, not a VectorField: save its state_dict yourself, "
                "or use a VectorField such as MLP."
            )
        if isinstance(self.solver, Tableau):
            raise ArgumentError(
                f"the solver {self.solver.name!r} is a custom tableau: before saving, set model.solver to a name."
            )
        control = {
            k: v for k, v in vars(self.control).items() if (k != "max_step" or v < np.inf) and (k != "tstops" or v)
        }
        description = {
            "field": self.field.describe(),
            "solver": _describe_solver(self.solver),
            "gradient": _describe_gradient(self.gradient),
            "control": control,
            "batch": self.batch,
            **self._further_description(),
        }
        write_model_file(path, type(self).__name__, description, self.arrays())

    def _further_description(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.SAVED}

    @classmethod
    def from_saved(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], **settings: Any) -> NeuralODE:
        """Return the model with the description and arrays of a file written by `save`; see `pyneuralode.load`."""
        gradient = dict(description["gradient"])
        method = find_gradient(gradient.pop("source", gradient["kind"]))
        own = {name: value for name, value in gradient.items() if name not in ("kind", "name")}
        if arrays:
            settings["dtype"] = torch.as_tensor(next(iter(arrays.values()))).dtype
        model = cls(
            from_description(description["field"]),
            solver=description["solver"],
            gradient=replace(method, **own),
            batch=description["batch"],
            **description["control"],
            **{name: description[name] for name in cls.SAVED},
            **settings,
        )
        model.set_arrays(arrays)
        return model


def _describe_gradient(gradient: GradientMethod) -> dict[str, Any]:
    """Return a gradient method as JSON values; of Julia source, only its name and hash."""
    if isinstance(gradient, JuliaAdjoint):
        return {"kind": "JuliaAdjoint", **call_without_source(gradient.source)}
    return {"kind": type(gradient).__name__, **vars(gradient)}


def _describe_solver(name: str) -> str | dict[str, str]:
    """Return a solver's name; of Julia source, only its name and hash."""
    return call_without_source(name) if find_solver(name).kind == "source" else name


class AugmentedNeuralODE(NeuralODE):
    """A neural ODE whose state is extended by `augment_dim` components that start at zero (Dupont et al. 2019).

    The initial state (..., d) becomes (..., d + augment_dim), which is also the dimension of the field. Returned states
    have all components; the first d are the original ones.

    Examples
    --------
    >>> import numpy as np
    >>> import pyneuralode as pn
    >>> model = pn.AugmentedNeuralODE(pn.MLP((3, 16, 3)), augment_dim=1)
    >>> model(np.zeros((10, 2)), [0.0, 1.0]).shape
    (2, 10, 3)
    """

    SAVED = ("augment_dim",)

    def __init__(self, field: VectorField | nn.Module | Callable, augment_dim: int, **settings: Any):
        super().__init__(field, **settings)
        self.augment_dim = whole_number("augment_dim", augment_dim, 0)
        if isinstance(field, VectorField) and self.augment_dim >= field.dim:
            raise ArgumentError(
                f"augment_dim is {augment_dim}: give a number of added components from 0 to {field.dim - 1}."
            )

    def initial_state(self, y0: Any) -> Any:
        if isinstance(y0, Tensor):
            return torch.cat([y0, y0.new_zeros(*y0.shape[:-1], self.augment_dim)], dim=-1)
        y0 = np.asarray(y0)
        return np.concatenate([y0, np.zeros((*y0.shape[:-1], self.augment_dim), dtype=y0.dtype)], axis=-1)
