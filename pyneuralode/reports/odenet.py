"""Report `odenet`: digits classified by ODE-Nets, an RK-Net, a residual network and a plain network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from ..images.training import RECIPES, ImageData
from ..images.training.specs import ClassifierSpec, ClassifierTraining
from ..plotting.accuracy import accuracy_curves, image_table
from ..plotting.classifiers import (
    error_against_parameters,
    evaluations_while_training,
    memory_against_depth,
    training_losses,
)
from .base import Context, Findings, Row, Table
from .odenet_nets import ADAPTIVE, BATCH, CHANNELS, MAIN, NETS, SIDE, TrainedDigitNet, growth, memory, train
from .parallel import Job
from .recorded import recorded

# Millions of parameters and test error in %, as printed.
CHEN = {"ODE-Net": (0.22, 0.42), "RK-Net": (0.22, 0.47), "ResNet": (0.60, 0.41)}
_CHEN = "Chen et al. 2018, Table 1"
_REVIEW = "L section 4.3.1"
_RECORDED = "Recorded full training runs, each computed once, at the commit in the table."


def run(context: Context) -> Findings:
    """Compute the report.

    Quick scale: 4,000 images, one epoch. Full scale: MNIST, two epochs; for the slow adaptive ODE-Net (DP5 with an
    adjoint), half of MNIST and one epoch.
    """
    jobs, tested = {}, 1_000 if context.quick else None
    for net in NETS:
        images, epochs = net.quick if context.quick else net.full
        recipe = replace(RECIPES["digits"].for_epochs(epochs), **net.changes)
        training = ClassifierTraining(ClassifierSpec("odenet", net.options), recipe, images=images, tests=tested)
        jobs[net.name] = Job(net.name, train, (training, context.seed), epochs * (images // recipe.batch))
    depths = [5, 10, 20] if context.quick else [5, 10, 20, 40, 80]
    found = context.run_jobs(jobs)
    peaks = memory(depths, context.progress)
    kept = recorded("odenet")
    images = {name: trained.batch for name, trained in found.items()}
    evaluations = {name: t.evaluations for name, t in found.items() if t.evaluations.any()}
    _, tests = jobs[MAIN].arguments[0].sets()
    chen = {f"{name}, Chen et al.": (1e6 * count, error) for name, (count, error) in CHEN.items()}
    return Findings(
        rows=[*_errors(found), *_recorded_errors(kept), *_sizes(found), *_growth(growth(depths, peaks))],
        figures={
            "training": training_losses({name: t.losses for name, t in found.items()}, images),
            "evaluations": evaluations_while_training(evaluations, images),
            "memory": memory_against_depth(depths, peaks, "Memory of one gradient of the body"),
            "errors": error_against_parameters({name: (t.parameters, t.error) for name, t in found.items()}, chen),
            "misread": _misread(found[MAIN], tests),
            **({"recorded": _recorded_curves(kept)} if kept else {}),
        },
        tables=[_table(found), _memory_table(depths, peaks), *([_recorded_table(kept)] if kept else [])],
        captions=({"recorded": _RECORDED} if kept else {})
        | {
            "training": "Running means of the cross-entropy of the training batches.",
            "evaluations": "Number of evaluations, averaged over a few updates. In Chen et al. 2018, it increases "
            "during training with adaptive steps (Fig. 3d).",
            "memory": f"Peak memory of live tensors in one gradient of the body only, for {BATCH} images of "
            f"{CHANNELS} x {SIDE} x {SIDE} in single precision.",
            "errors": "The published results are from full training runs.",
            "misread": f"Test digits that the {MAIN} net misreads, the most confident mistakes first.",
        },
        notes=_notes(),
    )


def _errors(found: dict[str, TrainedDigitNet]) -> list[Row]:
    def error(name: str, theirs: float | None, source: str, target: float | None = None) -> Row:
        return Row(f"{name}: test error", found[name].error, theirs, "%", source=source, target=target)

    return [
        error(MAIN, 0.77, _REVIEW, target=1.1),
        error(ADAPTIVE, CHEN["ODE-Net"][1], _CHEN),
        error("RK-Net, RK4", CHEN["RK-Net"][1], _CHEN),
        error("ResNet, 6 blocks", CHEN["ResNet"][1], _CHEN),
        error("plain CNN", None, ""),
    ]


def _recorded_name(run: Mapping[str, Any]) -> str:
    return f"{run['model'].get('kind', 'odenet')}, {run['recipe']}, seed {run['seed']}"


def _recorded_errors(runs: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for run in runs:
        name, error = f"recorded run, {_recorded_name(run)}: test error", 100 * (1 - run["test_accuracy"])
        target = 0.7 if run["model"].get("kind", "odenet") == "odenet" else None
        rows.append(Row(name, error, 0.77, "%", source=_REVIEW, target=target))
    return rows


def _recorded_curves(runs: list[dict[str, Any]]) -> Figure:
    curves = {_recorded_name(run): [run["curves"]["test_accuracy"]] for run in runs}
    return accuracy_curves({"Recorded full training runs": curves})


def _recorded_table(runs: list[dict[str, Any]]) -> Table:
    records = [
        {
            "run": _recorded_name(run),
            "epochs": len(run["curves"]["test_accuracy"]),
            "images": run["images"],
            "parameters": run["parameters"],
            "test error, %": 100 * (1 - run["test_accuracy"]),
            "minutes": run["seconds"] / 60,
            "processes": run["processes"],
            "commit": run["commit"],
            "machine": run["machine"],
        }
        for run in runs
    ]
    note = "Written by the runs themselves, not recomputed for this page."
    return Table.from_records("Recorded full training runs", records, note)


def _sizes(found: dict[str, TrainedDigitNet]) -> list[Row]:
    counts = {name: t.parameters for name, t in found.items()}
    match = {"better": "match", "unit": "parameters"}
    return [
        Row(f"{MAIN}: parameters", counts[MAIN], 208_010, source=_REVIEW, tolerance=0.0, **match),
        Row("RK-Net, RK4: parameters", counts["RK-Net, RK4"], 0.22e6, source=_CHEN, **match),
        Row("ResNet, 6 blocks: parameters", counts["ResNet, 6 blocks"], 0.60e6, source=_CHEN, tolerance=0.01, **match),
        Row("plain CNN: parameters", counts["plain CNN"], None, **match),
    ]


def _growth(grown: dict[str, float]) -> list[Row]:
    adjoint, checkpoints = "ODE-Net, BacksolveAdjoint", "ODE-Net, Checkpointed"
    return [
        Row(f"{adjoint}: memory per step", grown[adjoint], 0.0, "states", source="S: O(1)", target=0.05),
        Row(f"{checkpoints}: memory per step", grown[checkpoints], None, "states", target=1.05),
        Row("RK-Net, Backprop: memory per step", grown["RK-Net, Backprop"], None, "states", source="S: O(L)"),
        Row("ResNet: memory per residual block", grown["ResNet"], None, "states", source="S: O(L)"),
    ]


def _misread(trained: TrainedDigitNet, tests: ImageData) -> Figure:
    labels = tests.labels[trained.misread].tolist()
    captions = [f"{label}, read as {answer}" for label, answer in zip(labels, trained.answers)]
    return image_table(tests.images[trained.misread].numpy(), captions, "Misread test digits", columns=10)


def _table(found: dict[str, TrainedDigitNet]) -> Table:
    records = []
    for net in NETS:
        t, options = found[net.name], net.options
        ode = options["kind"] in ("odenet", "rknet")
        records.append(
            {
                "net": net.name,
                "solver": options.get("solver", "Euler") if ode else "none",
                "gradient": net.gradient if ode else "Backprop",
                "parameters": t.parameters,
                "images": t.images,
                "epochs": t.epochs,
                "test error, %": t.error,
                "evaluations": float(t.evaluations[-20:].mean()) if ode else None,
                "seconds": t.seconds,
            }
        )
    note = (
        "Evaluations are the mean number of evaluations of the dynamics per forward pass in the last updates. Seconds "
        "cover training and tests, with several networks trained at once, on one thread each."
    )
    return Table.from_records("The networks", records, note)


def _memory_table(depths: list[int], peaks: dict[str, list[float]]) -> Table:
    rows = [[depth, *(round(peak / 1e6, 2) for peak in of_depth)] for depth, *of_depth in zip(depths, *peaks.values())]
    note = "Peak memory in MB of one gradient of the body; depth is the number of Euler steps or residual blocks."
    return Table("Memory against depth", ["depth", *peaks], rows, note)


def _notes() -> list[str]:
    recipe = RECIPES["digits"]
    return [
        "The network and the solver, Euler's method with 20 steps, are the review's; the training is ours, the same "
        f"for all networks: {recipe.optimizer}, one cycle of the learning rate, batches of {recipe.batch}, shifts by "
        f"up to {recipe.augmentation.crop} pixels, convolutions in {recipe.precision} (in float32 with adaptive "
        "steps). Each network is tested in single precision with the solver it was trained with.",
        "Batch normalization inside the dynamics has separate running statistics for each step of the solver. A "
        "single running average, as in torch's own layer, mostly reflects the last of the twenty evaluations of a "
        "pass: after one epoch, it classified 98.8 % of the test images correctly, while the batches' own statistics "
        "gave 99.3 %. Training is not affected.",
        "Checkpointed and Backprop give the same gradient of the same steps, so the ODE-Net with Euler's method is "
        "also the RK-Net with Euler's method; the RK-Net here takes five steps of the classical Runge-Kutta method. "
        "BacksolveAdjoint stores one state regardless of the number of steps, and its gradient comes from a separate "
        "solve; Checkpointed stores one additional state per step.",
        "Chen et al. train for 160 epochs with augmentation. The ResNet is theirs, but with batch instead of group "
        "normalization: a convolution, two residual blocks that halve the image, then six more.",
    ]
