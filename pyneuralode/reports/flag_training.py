"""Training of flows on the flag: the nets of the report's Table 1, and recipes for training them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..datasets.densities import flag
from ..fields import MLP, ConcatMLP, GatedMLP, HyperMLP, Parameters, VectorField
from ..fitting import Adam
from ..fitting.schedules import OneCycle
from ..flows import ContinuousFlow, FlowFit
from ..flows.initialization import spread_units
from .parallel import completed

FLAG = flag()
FRESH = 100_000
_WIDE = (2, 64, 128, 128, 64, 2)


@dataclass(frozen=True)
class FlagNet:
    """A net of Table 1, its loss in the KTH report, and the group of nets with which its losses are plotted."""

    name: str
    field: VectorField
    theirs: float
    group: str


# Width -> hidden units -> the report's loss.
_HYPERNETS = {
    4: {4: 1.5013, 16: 1.3736, 64: 1.3150},
    16: {4: 1.3553, 16: 1.2792, 64: 1.2203},
    64: {4: 1.2757, 16: 1.2086, 64: 1.2097},
}
NETS: tuple[FlagNet, ...] = (
    *(
        FlagNet(f"hypernet H {hidden}, w {width}", HyperMLP(2, width, hidden), loss, f"hypernetworks, w {width}")
        for width, losses in _HYPERNETS.items()
        for hidden, loss in losses.items()
    ),
    FlagNet("2-layer FC, hidden 5", MLP((2, 5, 2)), 2.7974, "layers"),
    FlagNet("5-layer FC 64-128-128-64", MLP(_WIDE), 1.3796, "layers"),
    FlagNet("2-layer concat, hidden 5", ConcatMLP((2, 5, 2)), 2.0645, "layers"),
    FlagNet("4-layer concat 32-64-32", ConcatMLP((2, 32, 64, 32, 2)), 1.8108, "layers"),
    FlagNet("5-layer concat 64-128-128-64", ConcatMLP(_WIDE), 1.4956, "layers"),
    FlagNet("6-layer concat 32-64-64-64-32", ConcatMLP((2, 32, 64, 64, 64, 32, 2)), 1.4972, "layers"),
    FlagNet("5-layer gate and add 64-128-128-64", GatedMLP(_WIDE), 1.4306, "layers"),
)


@dataclass(frozen=True)
class FlagRecipe:
    """Settings of a flow that learns the flag, and of its training.

    Attributes
    ----------
    times : (float, float)
        Times of the base and of the data.
    initial : {"torch", "spread"}
        Whether the initial parameters are drawn as in torch's linear layers or by `flows.initialization.spread_units`.
    speed : {"one", "fast"}
        The scale of the slope: 1 ("one"), or 8 for hypernetworks, whose slope is a mean over the units, and 2 for other
        nets ("fast").
    rate : float
        Adam's learning rate, or its maximum for "one cycle".
    schedule : {"constant", "one cycle"}
        "one cycle" is `fitting.schedules.OneCycle`.
    betas : (float, float)
        Adam's decay rates for the two moments.
    solver, tolerance
        Used in training; losses on new points are always computed with Tsit5 at 1e-5.
    updates, batch : int
        The number of updates, and the number of new points in each update.
    """

    times: tuple[float, float] = (0.0, 1.0)
    initial: str = "spread"
    speed: str = "fast"
    rate: float = 0.01
    schedule: str = "one cycle"
    betas: tuple[float, float] = (0.9, 0.99)
    solver: str = "Tsit5"
    tolerance: float = 1e-3
    updates: int = 1000
    batch: int = 512

    def field(self, field: VectorField) -> VectorField:
        """Return the net with the output scale of this recipe."""
        fast = 8.0 if isinstance(field, HyperMLP) else 2.0
        return replace(field, output_scale=fast) if self.speed == "fast" else field

    def parameters(self, field: VectorField, seed: int) -> Parameters:
        """Return the initial parameters of the net."""
        return as_torch_draws(field, seed) if self.initial == "torch" else spread_units(field, seed)

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of an update (counted from 0)."""
        return self.rate if self.schedule == "constant" else OneCycle(self.rate, self.updates)(update)


THEIRS = FlagRecipe((0.0, 10.0), "torch", "one", 1e-3, "constant", (0.9, 0.999), "DP5", 1e-5)
OURS = FlagRecipe()


def as_torch_draws(field: VectorField, seed: int) -> Parameters:
    """Return every layer's weights and biases ~ U(-a, a), a = sqrt(1 / inputs), as in torch.nn.Linear."""
    rng = np.random.default_rng(seed)
    parameters, bound = {}, 0.0
    for name, shape in field.shapes().items():  # a layer's bias comes after its weight
        bound = math.sqrt(1 / shape[1]) if len(shape) == 2 else bound
        parameters[name] = rng.uniform(-bound, bound, size=shape)
    return parameters


@dataclass(frozen=True)
class TrainedFlow:
    """A trained flow of the flag, as plain arrays, so that it can be sent between processes.

    Attributes
    ----------
    field, times, parameters
        The definition of the flow.
    fit : FlowFit
        Losses and seconds of the updates (without its `flow`).
    fresh, gap : float
        Loss on 100,000 new points, and its excess over the mean of -log p on the same points, p being the flag's
        density: an estimate of the divergence KL(p || q) that is far less noisy than the loss.
    """

    field: VectorField
    times: tuple[float, float]
    parameters: Parameters
    fit: FlowFit
    fresh: float
    gap: float

    @property
    def running(self) -> float:
        """The running mean of the losses, momentum 0.99, after the last update."""
        return float(self.fit.running()[-1])

    def flow(self, engine: str = "torch") -> ContinuousFlow:
        """Return the flow, with solver tolerances of 1e-5."""
        flow = ContinuousFlow(self.field, times=self.times, solver="Tsit5", rtol=1e-5, atol=1e-5, engine=engine)
        flow.set_arrays(self.parameters)
        return flow


def train_flag(
    field: VectorField,
    recipe: FlagRecipe,
    seed: int,
    engine: str,
    advance: Callable[[int, str], None],
    fresh: int = FRESH,
) -> TrainedFlow:
    """Train a net on the flag with a recipe; `advance(n, note)` is called after each update."""
    field = recipe.field(field)
    flow = ContinuousFlow(
        field, times=recipe.times, solver=recipe.solver, rtol=recipe.tolerance, atol=recipe.tolerance, engine=engine
    )
    flow.set_arrays(recipe.parameters(field, seed))
    fit = flow.fit(
        sampler=FLAG.sample,
        updates=recipe.updates,
        batch=recipe.batch,
        optimizer=Adam(recipe.rate, betas=recipe.betas),
        schedule=recipe.learning_rate,
        seed=seed,
        callback=lambda update, loss: advance(1, f"loss {loss:.3f}"),
    )
    fit = replace(completed(fit), flow=None)
    trained = TrainedFlow(field, recipe.times, flow.arrays(), fit, math.nan, math.nan)
    return replace(trained, **fresh_loss(trained.flow(engine), fresh))


def fresh_loss(flow: ContinuousFlow, count: int = FRESH) -> dict[str, float]:
    """Return the loss on new points ("fresh"), and its excess over the mean of -log p, p the flag's density ("gap")."""
    points = FLAG.sample(count, np.random.default_rng((2022, 7)))
    with torch.no_grad():
        found = [flow.log_prob(part).numpy().astype(float) for part in np.array_split(points, -(-count // 10_000))]
    ours = np.concatenate(found)
    return {"fresh": float(-ours.mean()), "gap": float((FLAG.log_density(points) - ours).mean())}
