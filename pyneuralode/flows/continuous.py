"""Continuous normalizing flows: densities obtained from a simple one by the flow of a vector field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..arguments import real_array, real_number, real_tensor, whole_number
from ..errors import ArgumentError, DataError, unknown_name
from ..fields import VectorField
from ..fitting.optimizers import Adam, Optimizer
from ..models import NeuralODE
from ..problem import Solution
from .distribution import FlowDistribution
from .dynamics import NOISES, TRACES, draw_noise, solve_integrals, solve_states
from .sources import make_source
from .training import BatchLoss, FlowFit, train


@dataclass(frozen=True)
class FlowTerms:
    """The log density (nats) of each sample (...,), and the integrals over time of |f|^2 and of |df/dz|_F^2."""

    log_prob: Tensor
    kinetic: Tensor
    jacobian: Tensor
    evaluations: int


class ContinuousFlow(NeuralODE):
    """A continuous normalizing flow (Chen et al. 2018; Grathwohl et al. 2019).

    ``dz/dt = f(t, z)`` carries a sample z of the base density from the first of `times` to the second, where it is a
    sample of the flow's density.

    Parameters
    ----------
    field : VectorField, torch.nn.Module or callable
        A `VectorField` such as `HyperMLP`, or a module or function ``f(t, z)`` for z (n, d) in which the samples do not
        affect each other.
    times : (float, float)
        The time of the base and the time of the data, in either order.
    base : torch.distributions.Distribution, optional
        The base density, of event shape (d,); by default the standard normal.
    trace : {"exact", "hutchinson"}
        How to compute the trace of df/dz: "exact" uses the network's layers, or vectorized products with the Jacobian;
        "hutchinson" estimates it with one noise vector for each sample, which stays the same throughout a solve.
    noise : {"rademacher", "gaussian"}
        Noise of Hutchinson's estimator.
    augment_dim : int
        Number of components e ~ N(0, 1) that are appended to x (Dupont et al. 2019); the base is extended by a standard
        normal. `log_prob` is then log p(x, e) - log N(e), whose mean over e is a lower bound of log p(x).
    dim : int, optional
        Dimension of the data, for a module or callable without a `base`.
    solver, gradient, engine, seed, **settings
        As in `NeuralODE`; the tolerances are 1e-5 by default.
    compiled : bool
        Use hand-written derivatives of the trace of a `VectorField`; False uses autograd, which supports second
        derivatives.
    dtype : torch.dtype
        Dtype of the parameters of a `VectorField`, and of everything that the flow computes.

    Raises
    ------
    ArgumentError
        For inconsistent arguments, or an unknown trace, noise, solver, gradient or engine.

    Notes
    -----
    Points are arrays or tensors; results are tensors of the flow's dtype, on its device. The results are differentiable
    in the parameters and the points: to save memory, evaluate large sets of points under ``torch.no_grad()``.

    Examples
    --------
    >>> import numpy as np
    >>> import pyneuralode as pn
    >>> flow = pn.ContinuousFlow(pn.HyperMLP(dim=2, width=8, hidden=8))
    >>> flow.sample(3).shape, flow.log_prob(np.zeros((3, 2))).shape
    (torch.Size([3, 2]), torch.Size([3]))
    """

    SAVED = ("times", "trace", "noise", "augment_dim")

    def __init__(
        self,
        field: VectorField | nn.Module | Callable,
        *,
        times: tuple[float, float] = (0.0, 1.0),
        base: Distribution | None = None,
        trace: str = "exact",
        noise: str = "rademacher",
        augment_dim: int = 0,
        dim: int | None = None,
        dtype: torch.dtype = torch.float32,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        **settings: Any,
    ):
        super().__init__(field, dtype=dtype, rtol=rtol, atol=atol, **settings)
        ends = real_array("times", times)
        if ends.shape != (2,) or not np.isfinite(ends).all() or ends[0] == ends[1]:
            raise ArgumentError(
                f"times is {tuple(times)}: give the times of the base and of the data, such as (0.0, 1.0)."
            )
        self.times = (float(times[0]), float(times[1]))
        for name, value, known in (("trace", trace, TRACES), ("noise", noise, NOISES)):
            if value not in known:
                raise unknown_name(name, value, known)
        self.trace, self.noise = trace, noise
        if not isinstance(base, (Distribution, NoneType)):
            raise ArgumentError(f"base is {base!r}: give a torch.distributions.Distribution.")
        self.augment_dim, self.dim = _dimensions(field, augment_dim, base, dim)
        if base is not None and tuple(base.event_shape) != (self.dim,):
            raise ArgumentError(
                f"base has event shape {tuple(base.event_shape)}: use a base with event shape ({self.dim},)."
            )
        self._given_base = base
        self._plain_dtype = dtype

    @property
    def _kind(self) -> dict:
        first = next(self.parameters(), None)
        return {"dtype": self._plain_dtype} if first is None else {"dtype": first.dtype, "device": first.device}

    @property
    def base(self) -> Distribution:
        """The base density, at the first of `times`."""
        return _standard_normal(self.dim, self._kind) if self._given_base is None else self._given_base

    def log_prob(self, x: Any, seed: int = 0) -> Tensor:
        """Return the log density (...,) in nats at points x (..., d).

        `seed` determines Hutchinson's noise and the added components, if there are any.
        """
        points = self._points("x", x)
        return self._measure(points, np.random.default_rng(seed))[0].reshape(points.shape[:-1])

    def terms(self, x: Any, seed: int = 0) -> FlowTerms:
        """Return the log density at points x (..., d) and the penalties of Finlay et al. 2020, each of shape (...,)."""
        points = self._points("x", x)
        log_prob, found = self._measure(points, np.random.default_rng(seed), kinetic=True, jacobian=True)
        shape, integrals = points.shape[:-1], found.integrals
        return FlowTerms(
            log_prob.reshape(shape), integrals.kinetic.reshape(shape), integrals.jacobian.reshape(shape), found.nfev
        )

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Return n samples (n, d), without gradients."""
        return self.transform(self.draw_base(n, seed))[:, : self.dim]

    def sample_and_log_prob(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return n samples (n, d) and their log densities (n,), differentiable in the parameters.

        With `augment_dim` > 0, the log density is that of the whole state minus that of the added components under
        N(0, 1).
        """
        return self._emit(n, seed, np.random.default_rng(seed))[:2]

    def transform(self, z: Any, times: Any = None) -> Tensor:
        """Map states z (n, d + augment_dim) from the base to the data; return states of the same shape.

        With `times` (T,), in any order but within the span from base to data, return the states at each of them,
        (T, n, d + augment_dim).
        """
        return self._carry("z", z, *self.times, times)

    def inverse(self, x: Any, times: Any = None) -> Tensor:
        """Map states x (n, d + augment_dim) from the data to the base, or to each of `times`; see `transform`."""
        return self._carry("x", x, *reversed(self.times), times)

    def distribution(self) -> FlowDistribution:
        """Return the flow as a torch distribution of event shape (d,)."""
        return FlowDistribution(self)

    def fit(
        self,
        data: Any = None,
        *,
        sampler: Callable[[int, np.random.Generator], Any] | None = None,
        log_density: Callable[[Tensor], Tensor] | None = None,
        updates: int = 1000,
        batch: int = 512,
        optimizer: Optimizer = Adam(1e-3),
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        seed: int = 0,
        **options: Any,
    ) -> FlowFit:
        """Fit the flow with stochastic gradients to data, to new points from a sampler, or to a given log density.

        Parameters
        ----------
        data : array (n, d), optional
            Each update uses `batch` of its rows, drawn with replacement; all rows if there are at most `batch`.
        sampler : callable, optional
            ``sampler(n, rng)`` returns new points (n, d) for every update; `rng` is a NumPy generator.
        log_density : callable, optional
            ``log_density(x)`` returns a tensor (n,) for x (n, d), up to a constant. The fit then minimizes the reverse
            divergence E_q[log q - log p] over the flow's own samples. Give exactly one of the three sources.
        updates, batch : int
            Number of updates, and of points per update.
        optimizer : Optimizer
            One of `pyneuralode.fitting`, such as ``Adam(1e-2, schedule="cosine", clip=1.0)``.
        kinetic, jacobian : float
            Weights of the penalties: the batch's mean integrals of |f|^2 and of |df/dz|_F^2 (Finlay et al. 2020).
        seed : int
            Seed of batches and noise, which are drawn for every update from the seed and the index of the update.
        schedule : str or callable, optional
            Replaces the optimizer's own schedule: a name, or ``schedule(update)`` returning the learning rate.
        progress : bool or Progress
            True displays a progress bar.
        callback : callable, optional
            ``callback(update, loss)`` is called after every update.
        checkpoint, checkpoint_every, resume : path, int, bool
            File to which the fit is saved every `checkpoint_every` updates (by default 100) and at the end. With
            ``resume=True``, an interrupted fit continues from there and ends exactly as if it had not been interrupted.

        Returns
        -------
        FlowFit
            Also returned after Ctrl-C, a non-finite loss or a failed solve: then ``finished`` is False, ``message``
            states the reason, and the flow has the best parameters so far.

        Raises
        ------
        ArgumentError
            For invalid arguments, or unless exactly one of data, sampler and log_density is given.
        DataError
            For points of the wrong shape, or numbers that are not finite.
        """
        for name, value in (("kinetic", kinetic), ("jacobian", jacobian)):
            if real_number(name, value, "give a nonnegative weight, such as 0.01") < 0:
                raise ArgumentError(f"{name} is {value}: give a nonnegative weight, such as 0.01.")
        batch = whole_number("batch", batch, 1, 512)
        source = make_source(data, sampler, log_density, self.dim)
        wanted = {"kinetic": kinetic > 0, "jacobian": jacobian > 0}

        def compute(update: int) -> BatchLoss:
            rng = np.random.default_rng((seed, update))
            if log_density is None:
                log_prob, found = self._measure(self._points(source.name, source(batch, rng)), rng, **wanted)
                loss = -log_prob.mean()
            else:
                x, log_prob, found = self._emit(batch, int(rng.integers(2**62)), rng, **wanted)
                loss = (log_prob - source(x)).mean()
            objective = loss
            if kinetic:
                objective = objective + kinetic * found.integrals.kinetic.mean()
            if jacobian:
                objective = objective + jacobian * found.integrals.jacobian.mean()
            return BatchLoss(loss, objective, found.nfev)

        penalties = repr((kinetic, jacobian))
        identity = {"source": source.identity, "batch": str(batch), "penalties": penalties, "seed": str(seed)}
        return train(self, compute, updates=updates, optimizer=optimizer, identity=identity, **options)

    def _points(self, name: str, x: Any, dim: int | None = None) -> Tensor:
        """Check points (..., dim), and return them as a tensor of the flow's dtype on its device."""
        dim = self.dim if dim is None else dim
        points = real_tensor(name, x, **self._kind)
        if points.ndim == 0 or points.shape[-1] != dim:
            raise DataError(f"{name} has shape {tuple(points.shape)}: use shape (..., {dim}) for points.")
        finite = torch.isfinite(points.detach())
        if not bool(finite.all()):
            row = int((~finite).reshape(-1, dim).any(1).nonzero()[0])
            raise DataError(f"{name} contains a non-finite number in row {row}: give finite numbers.")
        return points

    def _noise(self, n: int, rng: np.random.Generator) -> Tensor | None:
        if self.trace == "exact":
            return None
        return torch.as_tensor(draw_noise(self.noise, (n, self.dim + self.augment_dim), rng)).to(**self._kind)

    def _measure(self, points: Tensor, rng: np.random.Generator, **penalties: bool) -> tuple[Tensor, Solution]:
        """Return the log densities (n,) of flattened points (..., d), the solution to the base and its integrals."""
        state = points.reshape(-1, self.dim)
        added = torch.as_tensor(rng.normal(size=(len(state), self.augment_dim))).to(**self._kind)
        if self.augment_dim:
            state = torch.cat([state, added], dim=1)
        noise = self._noise(len(state), rng)
        found = solve_integrals(self, state, (self.times[1], self.times[0]), noise, **penalties)
        return self._base_log_prob(found.ys[-1]) + found.integrals.trace - self._added_log_prob(added), found

    def _emit(self, n: int, seed: int, rng: np.random.Generator, **penalties: bool) -> tuple[Tensor, Tensor, Solution]:
        """Return n samples (n, d), their log densities (n,), and the solution from the base with its integrals."""
        z = self.draw_base(n, seed)
        found = solve_integrals(self, z, self.times, self._noise(len(z), rng), **penalties)
        x, added = found.ys[-1, :, : self.dim], found.ys[-1, :, self.dim :]
        return x, self._base_log_prob(z) - found.integrals.trace - self._added_log_prob(added), found

    def _base_log_prob(self, state: Tensor) -> Tensor:
        return self.base.log_prob(state[:, : self.dim]) + self._added_log_prob(state[:, self.dim :])

    def _added_log_prob(self, added: Tensor) -> Tensor | float:
        return _standard_normal(self.augment_dim, self._kind).log_prob(added) if self.augment_dim else 0.0

    def draw_base(self, n: int, seed: int | None = None) -> Tensor:
        """Return n states (n, d + augment_dim) of the base, drawn from torch's global generator if `seed` is None."""
        n = whole_number("n", n)
        device = self._kind.get("device", torch.device("cpu"))
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(whole_number("seed", seed, 0))
            base = self.base
            z = (base.rsample if base.has_rsample else base.sample)((n,))
            if self.augment_dim:
                z = torch.cat([z, _standard_normal(self.augment_dim, self._kind).sample((n,))], dim=1)
        return z

    def _carry(self, name: str, state: Any, start: float, stop: float, times: Any) -> Tensor:
        state = self._points(name, state, self.dim + self.augment_dim)
        if state.ndim != 2:
            raise DataError(f"{name} has shape {tuple(state.shape)}: use shape (n, {self.dim + self.augment_dim}).")
        if times is None:
            return solve_states(self, state, np.array([start, stop]))[-1]
        wanted = real_array("times", times).astype(float).reshape(-1)
        low, high = sorted(self.times)
        if not len(wanted) or not ((wanted >= low) & (wanted <= high)).all():
            raise ArgumentError(f"times is {times}: give times between {low:g} and {high:g}.")
        along, place = np.unique(wanted, return_inverse=True)
        if stop < start:
            along, place = along[::-1], len(along) - 1 - place
        later = along[along != start]
        states = solve_states(self, state, np.array([start, *later])) if len(later) else state[None]
        if len(later) == len(along):
            states = states[1:]
        return states[torch.as_tensor(place.reshape(-1).copy(), device=state.device)]

    def _further_description(self) -> dict[str, Any]:
        base = "standard normal" if self._given_base is None else type(self._given_base).__name__
        return {**super()._further_description(), "base": base}

    @classmethod
    def from_saved(
        cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], base: Distribution | None = None
    ) -> ContinuousFlow:
        """Return the flow stored in a file that `save` wrote; see `pyneuralode.load`."""
        return super().from_saved(description, arrays, base=base)


def _standard_normal(dim: int, kind: dict) -> Distribution:
    return Independent(Normal(torch.zeros(dim, **kind), torch.ones(dim, **kind), validate_args=False), 1)


def _dimensions(field: Any, augment_dim: int, base: Distribution | None, dim: int | None) -> tuple[int, int]:
    """Return the number of added components and the dimension of the data."""
    augment_dim = whole_number("augment_dim", augment_dim, 0)
    if isinstance(field, VectorField):
        left = field.dim - augment_dim
        if left < 1:
            most = field.dim - 1
            raise ArgumentError(f"augment_dim is {augment_dim}: give a number of added components from 0 to {most}.")
        if dim not in (None, left):
            raise ArgumentError(
                f"dim is {dim}, but the field with augment_dim = {augment_dim} implies {left}: leave dim out."
            )
        return augment_dim, left
    if dim is None and base is None:
        raise ArgumentError("dim is missing: give the dimension of the data, such as dim=2, or a base.")
    return augment_dim, whole_number("dim", dim) if dim is not None else int(base.event_shape.numel())
