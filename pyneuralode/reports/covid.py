"""Report `covid`: a neural ODE fitted to Sweden's epidemic over growing time spans.

Three parts: the KTH report's set-up for several seeds, a set-up of our own on its points and on the official series,
and forecasts of days that no model has seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..datasets import sweden
from ..epidemics import fit_neural, fit_seir, neural_curve, neural_model, neural_plan
from ..epidemics.neural import SPANS
from ..fields import MLP
from ..fitting import Adam, FitResult, GrowingSpan
from ..models import AugmentedNeuralODE
from ..plotting.epidemics import fitted_curves, forecasts, growing_fits, stage_losses
from .base import Context, Findings, Row, Table
from .parallel import Job, completed
from .seir import SCALE, UNIT

THEIR_RUNS = (1.97e-4, 4.39e-4, 1.99e-2)
THEIR_STAGES = (4.09e-5, 1.04e-3, 5.12e-4, 1.85e-4, 2.81e-4, 1.97e-4)
HELD_OUT = (14, 28)


def run(context: Context) -> Findings:
    """Quick: one seed, and shorter stages in the KTH report's set-up. Full: five seeds of everything."""
    seeds = context.seeds(1, 5)
    iterations = 150 if context.quick else 1000
    # The KTH report's points are fitted down to a goal; the official ones, which have none, for a number of iterations.
    finish = {"report": 300 if context.quick else 3000, "official": 300 if context.quick else 500}
    groups: dict[str, list[Job]] = {
        f"report's set-up, {activation}": [
            Job(
                f"report's set-up, {activation}, seed {s}",
                _their_fit,
                (activation, s, context.engine, iterations),
                iterations * len(SPANS),
            )
            for s in seeds
        ]
        for activation in ("swish", "relu")
    }
    for name, series, held_out in [
        ("our set-up", "report", 0),
        ("official series", "official", 0),
        *((f"last {days} days held out", "official", days) for days in HELD_OUT),
    ]:
        groups[name] = [
            Job(
                f"{name}, seed {s}",
                _our_fit,
                (series, s, context.engine, held_out, finish[series]),
                100 * len(SPANS) + finish[series],
            )
            for s in seeds
        ]
    fits = iter(context.run_jobs([job for jobs in groups.values() for job in jobs]))
    results = {name: [next(fits) for _ in jobs] for name, jobs in groups.items()}
    theirs = {activation: results[f"report's set-up, {activation}"] for activation in ("swish", "relu")}
    ours, official = results["our set-up"], results["official series"]
    ahead = {held_out: results[f"last {held_out} days held out"] for held_out in HELD_OUT}
    rows = _their_rows(theirs) + _our_rows(ours, official)
    table, panels = _forecasts(ahead, context.engine)
    return Findings(
        rows=rows,
        figures=_figures(theirs, ours, official, panels, context.engine),
        tables=[_stage_table(theirs, ours), _seed_table(theirs, ours, official), table],
        captions={
            "fit": "The best fit of our set-up, the converged SEIR model and the data (R Fig. 3).",
            "stages": "The fit after each growing span; open points lie beyond it (R Fig. 6).",
            "losses": "Loss in each stage of our best seed: six growing spans, then L-BFGS (R Fig. 7).",
            "losses_theirs": "Loss in each stage of the best seed of the report's set-up (R Fig. 7).",
            "official": "The same recipe on the official series.",
            "forecast": "Held-out days: median and range over the seeds.",
        },
        notes=[
            "The KTH report's text says swish, but the runs that gave its numbers used ReLU; both are repeated. The outcome "
            "depends on the seed (the report's three runs: 1.97e-4, 4.39e-4, 1.99e-2), so best and median stand beside "
            "the report's, without a verdict.",
            "Our set-up: the same net and points; states and time scaled inside the net, tanh, biases spread out, "
            "100 iterations of Adam a span with a falling rate, then L-BFGS until the sum of squares is 7.5e-5; a small "
            "penalty on the curve's total variation (1e-3 of it) keeps it from swinging between the points. More iterations "
            "would lower the sum further and follow the noise. The official series, which has no such number to reach, "
            "gets 500 iterations of L-BFGS.",
            "Forecasts use the same recipe without the held-out points; the penalty on variation covers the forecast days "
            "too. On the tail of an epidemic it is hard to beat repeating the last value seen, which therefore stands "
            "beside both models.",
            "Variation is the total variation of the fitted curve on a 0.1-day grid over that of the data.",
        ],
    )


def _points(series: str) -> tuple[np.ndarray, np.ndarray]:
    data = sweden(series)
    return data["day"].to_numpy(float), SCALE * data["new_cases_avg7"].to_numpy()


def _their_fit(activation: str, seed: int, engine: str, iterations: int, advance) -> FitResult:
    model = AugmentedNeuralODE(
        MLP((4, 100, 50, 4), activation), augment_dim=3, solver="Tsit5", engine=engine, seed=seed
    )
    plan = GrowingSpan(SPANS, Adam(1e-3), iterations)
    return completed(fit_neural(*_points("report"), model=model, plan=plan, callback=_counting(advance)))


def _counting(advance: Callable[..., None]) -> Callable[[int, int, float], None]:
    """Return a callback of a fit that advances the bar of its job."""
    return lambda stage, iteration, loss: advance(1, f"loss {loss:.3g}")


def _our_fit(series: str, seed: int, engine: str, held_out: int, finish: int, advance) -> FitResult:
    days, values = _points(series)
    horizon = days[-1]
    seen = days <= horizon - held_out
    # The goal is a mean square, so that fewer points are not fitted more closely.
    plan = neural_plan(horizon, goal=7.5e-5 / 56 * seen.sum(), finish=finish)
    fitted = fit_neural(
        days[seen],
        values[seen],
        model=neural_model(seed, engine=engine),
        plan=plan,
        smoothness=1e-3,
        horizon=horizon,
        callback=_counting(advance),
    )
    return completed(fitted)


def variation(result: FitResult, days: np.ndarray, values: np.ndarray) -> float:
    """Return the total variation of the fitted curve, on a 0.1-day grid from day 0, over that of the data."""
    curve = neural_curve(result.model, np.arange(0, days[-1] + 0.05, 0.1))
    from_zero = values if days[0] == 0 else np.concatenate([[0.0], values])
    return float(np.abs(np.diff(curve)).sum() / np.abs(np.diff(from_zero)).sum())


def _losses(results: list[FitResult]) -> np.ndarray:
    return np.array([result.loss for result in results])


def _their_rows(theirs: dict[str, list[FitResult]]) -> list[Row]:
    rows = []
    for activation, results in theirs.items():
        losses = _losses(results)
        rows += [
            Row(f"report's set-up, {activation}: best loss", losses.min(), min(THEIR_RUNS), source="R 4.1"),
            Row(
                f"report's set-up, {activation}: median loss",
                float(np.median(losses)),
                float(np.median(THEIR_RUNS)),
                source="R 4.1",
            ),
        ]
    return rows


def _our_rows(ours: list[FitResult], official: list[FitResult]) -> list[Row]:
    rows = []
    for name, results, targets in (("ours", ours, (1e-4, 1.97e-4)), ("ours, official series", official, (None, None))):
        days, values = _points("official" if "official" in name else "report")
        losses = _losses(results)
        ratios = [variation(result, days, values) for result in results]
        # Best, median and worst of the report's three runs; the official series is not in it.
        best, median, worst = (
            (min(THEIR_RUNS), float(np.median(THEIR_RUNS)), max(THEIR_RUNS)) if name == "ours" else (None,) * 3
        )
        source = "R 4.1" if name == "ours" else ""
        rows += [
            Row(f"{name}: best loss", losses.min(), best, source=source, target=targets[0]),
            Row(f"{name}: median loss", float(np.median(losses)), median, source=source),
            Row(f"{name}: worst loss of {len(losses)} seeds", losses.max(), worst, source=source, target=targets[1]),
            Row(f"{name}: largest variation over the data's", max(ratios), target=1.05),
        ]
    rows.append(Row("ours: longest run of one seed", max(r.seconds for r in ours), unit="s", target=300.0))
    return rows


def _stage_table(theirs: dict[str, list[FitResult]], ours: list[FitResult]) -> Table:
    best = {f"report's set-up, {a}": min(results, key=lambda r: r.loss) for a, results in theirs.items()}
    best["ours"] = min(ours, key=lambda r: r.loss)
    rows = [
        [
            f"0 to {end:g}",
            THEIR_STAGES[k],
            *(r.stages[k].best_loss if k < len(r.stages) else None for r in best.values()),
        ]
        for k, end in enumerate(SPANS)
    ]
    rows.append(["L-BFGS on 0 to 170", None, None, None, best["ours"].loss])
    return Table("Best loss in each stage, best seeds", ["days", "report's best run", *best], rows)


def _seed_table(theirs: dict[str, list[FitResult]], ours: list[FitResult], official: list[FitResult]) -> Table:
    groups = {f"report's set-up, {a}": ("report", results) for a, results in theirs.items()}
    groups |= {"ours": ("report", ours), "ours, official series": ("official", official)}
    rows = []
    for name, (series, results) in groups.items():
        for k, result in enumerate(results):
            ratio = variation(result, *_points(series))
            rows.append([name, k, result.loss, ratio, result.evaluations, result.seconds])
    return Table(
        "Every seed", ["set-up", "seed", "sum of squares", "variation", "gradient evaluations", "seconds"], rows
    )


def _forecasts(ahead: dict[int, list[FitResult]], engine: str) -> tuple[Table, list[tuple]]:
    """Return the errors of the held-out days, and for each span (last fitted day, times, curves by model)."""
    days, values = _points("official")
    rows, panels = [], []
    for held_out, results in ahead.items():
        last = days[-1] - held_out
        unseen = days > last
        grid = np.linspace(days[0], days[-1], 341)
        seir = fit_seir(days[~unseen], values[~unseen], fit_initial=True, engine=engine)
        curves = {
            "neural ODE": [neural_curve(r.model, days) for r in results],
            "SEIR": [seir.curve(days)],
            "last value": [np.where(unseen, values[~unseen][-1], values)],
        }
        drawn = {"neural ODE": np.array([neural_curve(r.model, grid) for r in results]), "SEIR": seir.curve(grid)}
        panels.append((last, grid, drawn))
        for name, predictions in curves.items():
            middle = np.median(predictions, axis=0)
            errors = (middle - values)[unseen] / SCALE
            rows.append(
                [held_out, int(unseen.sum()), name, float(np.sqrt(np.mean(errors**2))), float(np.mean(np.abs(errors)))]
            )
    return Table(
        "Forecast errors on held-out days, official series",
        ["days held out", "points", "model", "root mean square (cases a day)", "mean absolute (cases a day)"],
        rows,
        note="The neural ODE is the median over the seeds; SEIR has parameters and initial conditions fitted; "
        "'last value' repeats the last point seen.",
    ), panels


def _figures(
    theirs: dict[str, list[FitResult]],
    ours: list[FitResult],
    official: list[FitResult],
    panels: list[tuple],
    engine: str,
) -> dict:
    days, values = _points("report")
    grid = np.linspace(0, days[-1], 681)
    best = min(ours, key=lambda r: r.loss)
    best_theirs = min((r for results in theirs.values() for r in results), key=lambda r: r.loss)
    seir = fit_seir(days, values, fit_initial=True, engine=engine)
    curves = {
        "neural ODE, ours": (grid, neural_curve(best.model, grid)),
        "neural ODE, report's set-up": (grid, neural_curve(best_theirs.model, grid)),
        "SEIR, converged": (grid, seir.curve(grid)),
    }
    growing = [(s.end, grid, neural_curve(best.model, grid, s.parameters)) for s in best.stages[: len(SPANS)]]
    official_days, official_values = _points("official")
    best_official = min(official, key=lambda r: r.loss)
    return {
        "fit": fitted_curves(days, values, curves, "Sweden, November 2021 to April 2022", UNIT),
        "stages": growing_fits(days, values, growing, UNIT),
        "losses": stage_losses(best.stages, "Our set-up, best seed"),
        "losses_theirs": stage_losses(best_theirs.stages, "The report's set-up, best seed"),
        "official": fitted_curves(
            official_days,
            official_values,
            {
                "neural ODE, ours": (
                    grid[grid <= official_days[-1]],
                    neural_curve(best_official.model, grid[grid <= official_days[-1]]),
                )
            },
            "The official series",
            UNIT,
        ),
        "forecast": forecasts(official_days, official_values, panels, UNIT),
    }
