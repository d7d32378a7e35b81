"""Models that users hold: a vector field with a solver, a gradient method and an engine; and `solve` for one call."""

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
from .engines.torch_engine.dynamics import with_hints
from .engines.torch_engine.generic import slope
from .engines.torch_engine.tableaus import Tableau
from .errors import ArgumentError, unknown_name
from .fields import VectorField, from_description
from .gradient_check import GradientCheck, check_gradient
from .gradients import GradientMethod, find_gradient
from .model_files import write_model_file
from .problem import BATCHES, Event, Solution, make_control, read_events
from .problem.problem import check_field
from .problem.values import check_finite
from .solvers import find_solver

_PREPARED = PreparedProblems()


def solve(
    f: VectorField | nn.Module | Callable,
    y0: Any,
    ts: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    solver: str | Tableau = "Tsit5",
    gradient: str | GradientMethod = "Backprop",
    engine: str = "auto",
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
        A described field, or ``f(t, y)`` returning dy/dt like y (torch tensors, t of shape ()). With a NumPy y0 a callable may be
        one of NumPy arrays (t a float), as SciPy takes, without gradients: if its first call, with tensors, fails or returns
        something else (an array, a list), it is called with arrays from then on, and events' conditions likewise.
        A solver knows f only at the times at which it asks: a pulse shorter than a step is stepped over, unseen, unless
        `tstops` names the times at which it begins and ends, or `max_step` is shorter than it.
    y0 : array, tensor or tuple of them
        Initial state of any shape; a described field wants (..., dim). Its dtype is the dtype of the solve, and
        NumPy in gives NumPy out, torch in gives torch out with autograd.
    ts : array or tensor (T,)
        The times at which the state is wanted, rising or falling; the solve starts at ``ts[0]``. With
        ``batch="independent"`` also an array (B, T) with each sample's own, or a list of B arrays of any lengths.
    parameters : mapping, optional
        Parameters by name: a described field's (default: its initial ones, of `seed`), or the tensors that a
        callable depends on. A module brings its own.
    solver : str or Tableau
        A name of `pyneuralode.solvers.SOLVERS`, or an own explicit Runge-Kutta method. What a field can tell a stiff
        solver (`jacobian`, `samplewise`, `matrix_free`) stands in `pyneuralode.solvers`. "DP8" is not for stiff problems:
        its steps are right at their ends there, but states in between were up to 5,000 tolerances off (SciPy's DOP853: 60).
    gradient : str or GradientMethod
        A name or instance of `pyneuralode.gradients`.
    engine : {"auto", "torch", "julia"}
        "auto" takes Julia where it is installed and ready and has what is asked for, else torch.
    dense : bool
        Keep what is needed to call the solution at any time; it then takes the generic path and `Backprop`, and steps
        of solvers for stiff problems are as short as their interpolants need.
    compiled : bool
        Let the compiled path run where it applies (described fields on the CPU); on the Julia engine also the
        hand-written vector-Jacobian products, which otherwise are those of automatic differentiation.
    batch : {"joint", "independent"}
        "joint" solves y0 as one system with one step size. "independent" takes y0 (B, *state) as B samples, each with
        its own steps, error control, times and end, as if solved alone. The field is evaluated for all samples at once:
        ``f(t, y)`` with y (B, *state) and t (B, 1, ...), which broadcasts against y; by solvers for stiff problems and
        switching ones for one sample after the other, as a batch of one. A described field's parameters may
        have a leading axis B, for values of their own for each sample. Gradients: `Backprop` and `Checkpointed`.
    events : Event or sequence of Event
        Conditions to watch; ``Solution.events`` tells which were met, when and where. A terminal one ends the solve,
        and times after it are left out of the solution.
    jacobian : callable, optional
        ``jacobian(t, y)`` of a callable f, for stiff solvers: df/dy of shape (*y.shape, *y.shape). Without it the Jacobian comes
        from autograd, for a function of NumPy arrays from differences.
    **control
        `rtol`, `atol`, `norm`, `step_size`, `first_step`, `min_step`, `max_step`, `max_steps`, `tstops`: see
        `pyneuralode.Control`.

    Returns
    -------
    Solution
        ``ys`` has shape (T, *y0.shape), or is a tuple of such; see `Solution` for other forms of times.

    Raises
    ------
    ArgumentError
        For arguments that do not fit; the sentence says what to write.
    SolverError
        Where the solve cannot reach its end.
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
    )
    # What is prepared of a described field is kept for the next call; other fields may hold anything.
    prepared = _PREPARED if isinstance(f, VectorField) else PreparedProblems()
    return prepared.find(settings, engine, parameters, y0, ts).run(parameters, y0, ts)


def _starting_parameters(f: Any, seed: int) -> Mapping[str, Any]:
    if isinstance(f, VectorField):
        return f.initial(seed)
    return dict(f.named_parameters()) if isinstance(f, nn.Module) else {}


def _with_jacobian(f: Any, jacobian: Any) -> Callable:
    if not callable(jacobian):
        raise ArgumentError(
            f"jacobian is a {type(jacobian).__name__}: give a function of (t, y) that returns an array."
        )
    if isinstance(f, (VectorField, nn.Module)):
        remedy = "leave it out" if isinstance(f, VectorField) else "write it as the module's method jacobian(t, y)"
        raise ArgumentError(f"jacobian is given for a {type(f).__name__}, which brings its own: {remedy}.")
    return with_hints(partial(f), f, jacobian=jacobian)


class NeuralODE(nn.Module):
    """A vector field with trainable parameters, solved as an initial-value problem.

    Parameters
    ----------
    field : VectorField, torch.nn.Module or callable
        What is integrated; see `solve`.
    solver, gradient, engine, compiled, batch, **control
        As in `solve`.
    seed : int
        Seed of a described field's initial parameters.
    dtype : torch.dtype
        Dtype in which a described field's parameters are kept; a solve computes in that of its initial state.

    Calling ``model(y0, ts)`` returns the states (T, *y0.shape), ``model.solve(y0, ts)`` the whole `Solution`.
    """

    # Further arguments of a subclass that a file keeps, under the names of its attributes.
    SAVED: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        field: VectorField | nn.Module | Callable,
        *,
        solver: str | Tableau = "Tsit5",
        gradient: str | GradientMethod = "Backprop",
        engine: str = "auto",
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
            for name, value in field.initial(seed).items():
                if hasattr(self.weights, name):
                    raise ArgumentError(
                        f"a parameter has the name {name!r}, which torch keeps for itself: name it {name}_."
                    )
                self.weights[name] = nn.Parameter(torch.as_tensor(value, dtype=dtype))
        else:
            check_field(field)
        if batch not in BATCHES:
            raise unknown_name("batch", batch, BATCHES)
        self.prepared = PreparedProblems()

    def tensors(self) -> dict[str, Tensor]:
        """Return the field's parameters by name, in the documented order."""
        return dict(self.field.named_parameters()) if isinstance(self.field, nn.Module) else dict(self.weights.items())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of the field's parameters as NumPy arrays by name, in the documented order."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.tensors().items()}

    @torch.no_grad()
    def set_arrays(self, parameters: Mapping[str, Any]) -> None:
        """Set the field's parameters from finite arrays or tensors by name; names and shapes must be those of `arrays`."""
        tensors = self.tensors()
        if set(parameters) != set(tensors):
            odd = min(set(parameters) ^ set(tensors))
            raise ArgumentError(f"parameters: {odd!r} is missing or unknown; give {', '.join(tensors)}.")
        found = {name: real_tensor(name, value).to(tensors[name].dtype) for name, value in parameters.items()}
        for name, value in found.items():
            if value.shape != tensors[name].shape:
                raise ArgumentError(f"{name} has shape {tuple(value.shape)}: give {tuple(tensors[name].shape)}.")
            check_finite(name, value)
        for name, value in found.items():
            tensors[name].copy_(value)

    def initial_state(self, y0: Any) -> Any:
        """Return the state that is integrated for the caller's initial state; here the same."""
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
        """Return this model's problem ready to be solved for values of the kind given, for loops of one's own.

        ``model.prepare(y0, ts).solve(parameters, initial_state, ts)`` is `solve` with all checks but those of the values made
        before. The model keeps what was prepared for as long as nothing it depends on changes.
        """
        parameters = self.tensors() if parameters is None else parameters
        return self.prepared.find(self.settings(dense, events), self.engine, parameters, self.initial_state(y0), ts)

    def settings(self, dense: bool = False, events: Event | Sequence[Event] = ()) -> Settings:
        """Return what this model sets of a problem."""
        solver = self.solver if isinstance(self.solver, Tableau) else find_solver(self.solver)
        watched = () if events == () else read_events(events)
        return Settings(self.field, solver, self.gradient, self.control, dense, self.compiled, self.batch, watched)

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
        """Solve from `y0` through `ts`; `parameters` stand in for the model's own, `dense` and `events` are as in `solve`.

        `y0` is the state at ``ts[0]``, or at `t0` where that is another time before it.
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
                f"t0 is {t0} and every sample has its own times: write each one's start at the head of its row."
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
        """Return dy/dt (like y) at time `t` for a whole state `y`, NumPy or torch; its added components included."""
        return slope(self.field, self.tensors(), t, y)

    def check_gradient(self, y0: Any, ts: Any, **settings: Any) -> GradientCheck:
        """Print, and return, a table of every gradient method: error, time and peak memory.

        The error is that of the model at its own tolerance, in float64, along random directions in the space of
        parameters and initial state, against central differences of a tightly solved one.

        Parameters
        ----------
        y0, ts
            As in a call.
        loss : callable, optional
            ``loss(ys)`` -> tensor of shape (); the sum of squares unless given.
        methods : sequence of str or GradientMethod, optional
            All that the model's engine has for its `batch` unless given.
        directions, seed : int
            How many directions, and their seed.
        """
        check = check_gradient(self, y0, ts, **settings)
        print(check)
        return check

    def save(self, path: str | Path) -> None:
        """Write the model to one safetensors file: its arrays, and its description as JSON in the header."""
        if not isinstance(self.field, VectorField):
            raise ArgumentError(
                f"the field is a {type(self.field).__name__}, which has no description: save its state_dict yourself, "
                "or use a described field such as MLP."
            )
        if isinstance(self.solver, Tableau):
            raise ArgumentError(
                f"the solver {self.solver.name!r} is an own tableau: set model.solver to a catalog name to save."
            )
        control = {
            k: v for k, v in vars(self.control).items() if (k != "max_step" or v < np.inf) and (k != "tstops" or v)
        }
        description = {
            "field": self.field.describe(),
            "solver": self.solver,
            "gradient": {"kind": type(self.gradient).__name__, **vars(self.gradient)},
            "control": control,
            "batch": self.batch,
            **self._further_description(),
        }
        write_model_file(path, type(self).__name__, description, self.arrays())

    def _further_description(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.SAVED}

    @classmethod
    def from_saved(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], **settings: Any) -> NeuralODE:
        """Return the model of a file that `save` wrote; see `pyneuralode.load`."""
        gradient = dict(description["gradient"])
        if arrays:
            settings["dtype"] = torch.as_tensor(next(iter(arrays.values()))).dtype
        model = cls(
            from_description(description["field"]),
            solver=description["solver"],
            gradient=type(find_gradient(gradient.pop("kind")))(**gradient),
            batch=description["batch"],
            **description["control"],
            **{name: description[name] for name in cls.SAVED},
            **settings,
        )
        model.set_arrays(arrays)
        return model


class AugmentedNeuralODE(NeuralODE):
    """A neural ODE whose state is extended by `augment_dim` components that start at zero (Dupont et al. 2019).

    The initial state (..., d) becomes (..., d + augment_dim); the field's dimension is d + augment_dim, and the states
    returned keep all components: the first d are the caller's.
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
