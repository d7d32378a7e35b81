"""`CoupledODE`: activations and the weights that act on them evolve together (ANODEV2, Zhang et al., NeurIPS 2019)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..arguments import whole_number
from ..errors import ArgumentError, kind_of, unknown_name
from ..gradients import Backprop, BacksolveAdjoint, Checkpointed, GradientMethod, find_gradient
from ..problem.problem import check_field
from ..tableaus import Tableau
from .coupled_gradients import CoupledSteps, run
from .evolution import Evolution, ODEEvolution, convolve_in_time
from .fixed_steps import check_input, explicit_tableau


class CoupledODE(nn.Module):
    """The map from z(0) to z(span) by z' = f(t, z; theta(t)), where weights theta of f evolve together with z.

    theta(t) is w(t), or the integral of K(t - s) w(s) over s from 0 to t. f itself contains w(0), and an operator q
    determines how w evolves. Everything is learned: w(0), the parameters of q, and the weights of f that do not evolve.
    Without evolving weights, this is ANODE: a neural ODE with the gradients of its discrete steps.

    Parameters
    ----------
    f : torch.nn.Module
        ``f(t, z)`` returns dz/dt with the shape of z; t has shape ().
    evolutions : dict of str to Evolution, module or callable
        The weights that evolve, by their names in ``f.named_parameters()``, each with its operator q: an `Evolution`,
        or ``q(t, w)`` returning dw/dt, which is solved by Euler's method (use `ODEEvolution` for other solvers).
    steps : int
        Number of steps of z (Nt in the paper).
    weight_steps : int, optional
        Number of steps of the weights over the same span, by default `steps` (the paper's configuration one);
        ``steps=2, weight_steps=10`` is its configuration two. Between these steps theta is interpolated linearly, for
        instance at the midpoints that "RK4" needs: use twice as many weight steps as steps to get RK4's full order.
    solver : str or Tableau
        Explicit solver for z ("Euler", "Midpoint", "Heun", "RK4", ...).
    gradient : str or GradientMethod, optional
        `Backprop`; `Checkpointed(every)`, which stores z once in `every` steps; or `BacksolveAdjoint`, which retraces
        the forward steps and therefore accepts no tolerances. By default ``Checkpointed(steps)``: only z(0) is stored,
        as in ANODE. The evolved weights are always stored; they are few compared with the activations.
    span : float
        Final time of z.
    time_kernel : callable or torch.nn.Module, optional
        K: maps delays t - s, a tensor (n,), to numbers (n,). By default the delta function, so that theta = w.
    per_step : sequence of str
        Names of submodules of f, such as batch norms, that are copied so that every step of z has its own copy.

    Raises
    ------
    ArgumentError
        For unknown names, invalid numbers, a gradient method other than these three, or an f or q that returns a tensor
        with a shape other than that of z or w.

    Notes
    -----
    The running statistics of batch norms are updated only in forward passes, even if a gradient method evaluates f
    again. Under ``torch.autocast``, f computes in the lower precision; z and the evolution of the weights stay in
    float32.

    Examples
    --------
    Configuration two, for dynamics with one convolution:

    >>> import torch
    >>> from pyneuralode.images import CoupledODE, ReactionDiffusionAdvection
    >>> class Dynamics(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
    ...     def forward(self, t, z):
    ...         return torch.relu(self.conv(z))
    >>> f = Dynamics()
    >>> q = ReactionDiffusionAdvection(f.conv.weight.shape, "tanh")
    >>> block = CoupledODE(f, {"conv.weight": q}, steps=2, weight_steps=10)
    >>> block(torch.zeros(1, 4, 8, 8)).shape
    torch.Size([1, 4, 8, 8])

    References
    ----------
    T. Zhang, Z. Yao, A. Gholami, K. Keutzer, J. Gonzalez, G. Biros, M. Mahoney, ANODEV2: A Coupled Neural ODE
    Framework, NeurIPS 2019.
    """

    def __init__(
        self,
        f: nn.Module,
        evolutions: Mapping[str, nn.Module | Callable[[Tensor, Tensor], Tensor]] | None = None,
        *,
        steps: int = 5,
        weight_steps: int | None = None,
        solver: str | Tableau = "Euler",
        gradient: str | GradientMethod | None = None,
        span: float = 1.0,
        time_kernel: Callable[[Tensor], Tensor] | None = None,
        per_step: Sequence[str] = (),
    ):
        super().__init__()
        if not isinstance(f, nn.Module):
            raise ArgumentError(f"f is {kind_of(f)}: give a torch.nn.Module with forward(self, t, z).")
        check_field(f)
        self.steps = whole_number("steps", steps, 1, 5)
        self.weight_steps = self.steps if weight_steps is None else whole_number("weight_steps", weight_steps, 1, 5)
        if not 0 < span < float("inf"):
            raise ArgumentError(f"span is {span!r}: give a positive number, such as 1.0.")
        self.span, self.tableau = float(span), explicit_tableau(solver)
        self.gradient = _gradient(gradient, self.steps)
        evolutions = dict(evolutions or {})
        for name in evolutions:
            if name not in dict(f.named_parameters()):
                raise unknown_name("a weight that evolves", name, dict(f.named_parameters()))
        for name in per_step:
            if name not in dict(f.named_modules()):
                raise unknown_name("a submodule in per_step", name, dict(f.named_modules()))
        self.f, self.evolving = f, tuple(evolutions)
        self.evolutions = nn.ModuleList(q if isinstance(q, Evolution) else ODEEvolution(q) for q in evolutions.values())
        self.time_kernel = time_kernel
        self.per_step = tuple(per_step)
        # The first step uses f's own submodules; every later step uses a copy.
        parts, later = [f.get_submodule(name) for name in per_step], range(1, self.steps if per_step else 1)
        self.copies = nn.ModuleList(nn.ModuleList(map(copy.deepcopy, parts)) for _ in later)

    @property
    def evaluations(self) -> int:
        """Number of evaluations of f in a forward pass."""
        return self.steps * self.tableau.stages

    def forward(self, z: Tensor) -> Tensor:
        """Return z at the end of the span, with the shape of the input."""
        return run(self._steps(), check_input("z", z), self.gradient)

    def states(self, z: Tensor) -> Tensor:
        """Return z at all steps from t = 0 to `span`, (steps + 1, *z.shape); autograd records every operation."""
        coupled = self._steps()
        found = [check_input("z", z)]
        for n in range(self.steps):
            found.append(coupled.step(n, found[-1]))
        return torch.stack(found)

    def trajectory(self) -> dict[str, list[Tensor]]:
        """Return the evolving weights by name: theta at each of the weight steps, from t = 0 to `span`."""
        times = [self.span * k / self.weight_steps for k in range(self.weight_steps + 1)]
        weights = dict(self.f.named_parameters())
        found = {}
        for name, evolution in zip(self.evolving, self.evolutions):
            with torch.autocast(weights[name].device.type, enabled=False):
                path = evolution.trajectory(weights[name], times)
                found[name] = path if self.time_kernel is None else convolve_in_time(path, times, self.time_kernel)
        return found

    def _steps(self) -> CoupledSteps:
        tensors: list[Tensor] = []
        places: dict[int, int] = {}

        def place(tensor: Tensor) -> int:
            if id(tensor) not in places:
                places[id(tensor)] = len(tensors)
                tensors.append(tensor)
            return places[id(tensor)]

        paths = self.trajectory()
        evolved = [{name: place(path[k]) for name, path in paths.items()} for k in range(self.weight_steps + 1)]
        fixed, buffers = [], []
        for n in range(self.steps):
            parameters, others = self._at_step(n)
            fixed.append({name: place(p) for name, p in parameters.items() if name not in paths})
            buffers.append(others)
        return CoupledSteps(self.f, self.tableau, self.steps, self.span, tensors, evolved, fixed, buffers)

    def _at_step(self, n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the parameters and buffers of f at step n, by their names in f."""
        parameters, buffers = dict(self.f.named_parameters()), dict(self.f.named_buffers())
        for name, part in zip(self.per_step, self.copies[n - 1] if n and self.per_step else ()):
            parameters |= {f"{name}.{key}": value for key, value in part.named_parameters()}
            buffers |= {f"{name}.{key}": value for key, value in part.named_buffers()}
        return parameters, buffers

    def extra_repr(self) -> str:
        return (
            f"steps={self.steps}, weight_steps={self.weight_steps}, solver={self.tableau.name}, "
            f"gradient={self.gradient}, evolving={list(self.evolving)}"
        )


def _gradient(gradient: str | GradientMethod | None, steps: int) -> GradientMethod:
    method = Checkpointed(steps) if gradient is None else find_gradient(gradient)
    if not isinstance(method, (Backprop, Checkpointed, BacksolveAdjoint)):
        raise ArgumentError(
            f"gradient is {type(method).__name__!r}: give 'Backprop', 'Checkpointed' or 'BacksolveAdjoint'."
        )
    if isinstance(method, BacksolveAdjoint) and (method.rtol is not None or method.atol is not None):
        raise ArgumentError(
            f"gradient is {method}: it retraces the forward steps, so tolerances do not apply: leave them out."
        )
    return method
