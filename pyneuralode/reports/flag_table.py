"""Report `flag-table`: flows with different right-hand sides on the flag, in the KTH report's setup and in ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..fields import HyperMLP, VectorField
from ..flows.plots import grid_points, log_density_at
from ..plotting.flows import density_panels, losses_of_settings, running_losses
from .base import Context, Findings, Row, Table
from .flag import BEST, BEST_FIELD, THEIR_BEST
from .flag_training import FLAG, NETS, OURS, THEIRS, FlagNet, FlagRecipe, TrainedFlow, train_flag
from .parallel import Job

SETUPS = {"report's setup": THEIRS, "our setup": OURS}
QUICK_NETS = ("hypernet H 16, w 16", "2-layer FC, hidden 5", "2-layer concat, hidden 5", "4-layer concat 32-64-32")
THE_BEST = "with 3,000 updates, batches of 1,024, width 128: the best"
# Our setup for one net, with one change at a time, then the steps from there to the best model.
ABLATED = HyperMLP(2, 64, 64)
ABLATIONS: dict[str, tuple[VectorField, FlagRecipe]] = {
    "our setup, hypernet H 64, w 64": (ABLATED, OURS),
    "with torch's initial parameters": (ABLATED, replace(OURS, initial="torch")),
    "with Adam at 1e-3 throughout": (ABLATED, replace(OURS, rate=1e-3, schedule="constant")),
    "with Adam at 1e-2 throughout": (ABLATED, replace(OURS, schedule="constant")),
    "with an unscaled slope": (ABLATED, replace(OURS, speed="one")),
    "with times 0 to 10 and an unscaled slope": (ABLATED, replace(OURS, times=(0.0, 10.0), speed="one")),
    "with a tolerance of 1e-5 in training": (ABLATED, replace(OURS, tolerance=1e-5)),
    "with 3,000 updates": (ABLATED, replace(OURS, updates=3000)),
    "with 3,000 updates, batches of 1,024": (ABLATED, BEST),
    THE_BEST: (BEST_FIELD, BEST),
}
Runs = dict[str, list[list[TrainedFlow]]]  # by setup, then by net, then by seed


def run(context: Context) -> Findings:
    """Compute the report. Quick scale: four nets, 60 updates, one seed. Full scale: sixteen nets, three seeds."""
    nets = [net for net in NETS if not context.quick or net.name in QUICK_NETS]
    seeds = context.seeds(1, 3)
    cut = {"updates": 60} if context.quick else {}
    train = partial(train_flag, fresh=5_000 if context.quick else 100_000)

    def job(name: str, field: VectorField, recipe: FlagRecipe, seed: int) -> Job:
        recipe = replace(recipe, **cut)
        return Job(name, train, (field, recipe, seed, context.engine), recipe.updates, _cost(field, recipe))

    jobs: dict[object, Job] = {
        (words, net.name, seed): job(f"{words}, {net.name}, seed {seed}", net.field, recipe, seed)
        for words, recipe in SETUPS.items()
        for net in nets
        for seed in seeds
    }
    steps = dict(list(ABLATIONS.items())[: 2 if context.quick else None])
    jobs |= {name: job(name, *changed, context.seed) for name, changed in steps.items()}
    # The best model's row is a mean over the same seeds as in the table.
    jobs |= {(THE_BEST, seed): job(f"the best, seed {seed}", BEST_FIELD, BEST, seed) for seed in seeds[1:]}
    found = context.run_jobs(jobs)
    table: Runs = {words: [[found[words, net.name, seed] for seed in seeds] for net in nets] for words in SETUPS}
    ablation = {name: found[name] for name in steps}
    best = [] if context.quick else [found[THE_BEST], *(found[THE_BEST, seed] for seed in seeds[1:])]
    return Findings(
        rows=_rows(nets, table, best, len(seeds)),
        tables=[_settings_table(nets, table), _seed_table(nets, table), _ablation_table(ablation)],
        figures=_figures(nets, table, best, context),
        captions={
            "settings": "The loss of every net and seed on 100,000 new points, next to the report's loss, which is a "
            "running mean.",
            "losses_theirs": "The report's setup: running mean of the loss (momentum 0.99) for every seed; dotted "
            "lines show the report's last value (R Fig. 8).",
            "losses_ours": "Our setup, drawn in the same way.",
            "densities_theirs": "Log density (nats) learned by each net in the report's setup, first seed (R Fig. 9).",
            "densities_ours": "Log density (nats) in our setup, first seed; the last panels show the best model and "
            "the flag itself.",
        },
        notes=_notes(best),
    )


def _cost(field: VectorField, recipe: FlagRecipe) -> float:
    """Return the relative cost of a training run, from its updates, points, multiplications and tolerance."""
    weights = sum(int(np.prod(shape)) for shape in field.shapes().values() if len(shape) == 2)
    size = 10 * field.width if isinstance(field, HyperMLP) else 3 * weights
    return recipe.updates * (recipe.batch * size + 1e6) * recipe.tolerance**-0.3


def _rows(nets: Sequence[FlagNet], table: Runs, best: list[TrainedFlow], seeds: int) -> list[Row]:
    rows = []
    for net, runs in zip(nets, table["our setup"]):
        name = f"our setup, {net.name}: loss on new points, mean over seeds ({seeds})"
        rows.append(Row(name, _mean(runs, "fresh"), net.theirs, "nats", source="R Table 1", target=net.theirs))
    if best:
        mean, worst = f"loss on new points, mean over seeds ({seeds})", max(run.fresh for run in best)
        gap = max(run.gap for run in best)
        rows += [
            Row(f"best model: {mean}", _mean(best, "fresh"), **THEIR_BEST, target=1.169),
            Row("best model: loss on new points, worst seed", worst, **THEIR_BEST, target=1.169),
            Row("best model: loss above the entropy, worst seed", gap, unit="nats", target=0.01),
        ]
    rows.append(
        Row("entropy of the flag: lower bound", FLAG.entropy, 1.159, "nats", "match", "specification", tolerance=0.001)
    )
    for words, runs in table.items():
        total = sum(np.mean([run.fit.seconds for run in of_net]) for of_net in runs)
        rows.append(Row(f"{words}: processor time to train all nets, one seed", total / 60, unit="min"))
    return rows


def _mean(runs: Sequence[TrainedFlow], quantity: str) -> float:
    return float(np.mean([getattr(run, quantity) for run in runs]))


def _settings_table(nets: Sequence[FlagNet], table: Runs) -> Table:
    rows = []
    for net, theirs, ours in zip(nets, *table.values()):
        running = [run.running for run in theirs]
        spread = [min(running), _mean(theirs, "running"), max(running), _mean(theirs, "fresh")]
        rows.append([net.name, net.theirs, *spread, *(_mean(ours, name) for name in ("running", "fresh", "gap"))])
    of_theirs = [f"report's setup: {words}" for words in ("min", "mean", "max", "new points, mean")]
    return Table(
        "Loss of each net after the last update, over the seeds",
        ["net", "theirs", *of_theirs, "ours: running mean", "ours: new points", "ours: above the entropy"],
        rows,
        note="Min, mean, max and 'running mean' refer to the running mean of the loss, as in the report; 'new "
        "points' is the loss on 100,000 new points at tolerance 1e-5; 'above the entropy' is KL(p || q), estimated "
        "on the same points.",
    )


def _seed_table(nets: Sequence[FlagNet], table: Runs) -> Table:
    rows = [
        [words, net.name, k, run.running, run.fresh, run.gap, int(run.fit.evaluations[-1]), round(run.fit.seconds)]
        for words, runs in table.items()
        for net, of_net in zip(nets, runs)
        for k, run in enumerate(of_net)
    ]
    columns = [
        "setup",
        "net",
        "seed",
        "running mean",
        "new points",
        "above the entropy",
        "evaluations, last update",
        "seconds",
    ]
    return Table("Every run", columns, rows)


def _ablation_table(ablation: dict[str, TrainedFlow]) -> Table:
    rows = [[name, t.running, t.fresh, t.gap, round(t.fit.seconds)] for name, t in ablation.items()]
    columns = ["setup", "running mean", "new points", "above the entropy", "seconds"]
    return Table("Effects of single changes, one seed", columns, rows)


def _figures(nets: Sequence[FlagNet], table: Runs, best: list[TrainedFlow], context: Context) -> dict:
    theirs = {net.name: net.theirs for net in nets}
    losses = {words: [[run.fresh for run in of_net] for of_net in runs] for words, runs in table.items()}
    figures = {"settings": losses_of_settings(list(theirs), list(theirs.values()), losses, FLAG.entropy)}
    for key, runs in zip(("losses_theirs", "losses_ours"), table.values()):
        groups: dict[str, dict[str, list[np.ndarray]]] = {}
        for net, of_net in zip(nets, runs):
            groups.setdefault(net.group, {})[net.name] = [run.fit.running() for run in of_net]
        figures[key] = running_losses(groups, FLAG.entropy, theirs)
    grid = grid_points(FLAG.extent, 50 if context.quick else 120)

    def panel(name: str, trained: TrainedFlow) -> tuple[str, np.ndarray]:
        return f"{name}\n{trained.fresh:.4f}", log_density_at(trained.flow(context.engine), grid)

    for key, (words, runs) in zip(("densities_theirs", "densities_ours"), table.items()):
        panels = [panel(net.name, of_net[0]) for net, of_net in zip(nets, runs)]
        if best and words == "our setup":
            panels.append(panel("the best model", best[0]))
        panels.append((f"the flag\n{FLAG.entropy:.4f}", FLAG.log_density(grid)))
        figures[key] = density_panels(panels, FLAG.extent, min(6, len(panels)), log=True)
    return figures


def _notes(best: list[TrainedFlow]) -> list[str]:
    notes = [
        "Table 1 of the KTH report has sixteen rows: nine hypernetworks, two nets without time, four with time as "
        "an input, and one with gates.",
        "The report's setup: t from 0 (standard normal) to 10 (data), dopri5 at 1e-5, exact trace, 1,000 updates of "
        "Adam at 1e-3 on new batches of 512; initial parameters drawn as in torch's linear layers (the report does "
        "not state them). The results depend on the seed: min, mean and max are shown next to the report's number, "
        "without a target.",
        "Our setup: the same nets, number of updates and batch size. Time runs from 0 to 1, and the "
        "slope is scaled by 8 for hypernetworks and by 2 for the others. Initially, the first layer's units are "
        "spread over the whole picture, and a hypernetwork's units over the whole time. Adam's rate increases to "
        "0.01 in 100 updates and decreases to zero along half a cosine; the decay of the second moments is 0.99. "
        "Tsit5 at 1e-3 in training and at 1e-5 for the new points. All nets use the same recipe.",
        f"The entropy of the flag, {FLAG.entropy:.4f} nats by quadrature, is a lower bound for the expected loss. A "
        "loss on 100,000 points has a random error of about 0.001, which is the same for all nets because they share "
        "the points; the loss above the entropy does not have this error.",
    ]
    if best:
        notes.append(
            f"The best model is a hypernetwork of width {BEST_FIELD.width} with {BEST_FIELD.hidden} hidden units, "
            f"{BEST.updates:,} updates on {BEST.batch:,} points each, otherwise in our setup."
        )
    return notes
