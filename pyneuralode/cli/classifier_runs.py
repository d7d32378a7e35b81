"""ClassifierTraining runs of classifiers: what `pyneuralode train odenet` and `train anodev2` compute and write."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import whole_number
from ..datasets.cifar10 import CLASSES
from ..errors import ArgumentError
from ..files import check_folder, whole_files, write_json
from ..images.training.data import ImageData
from ..images.training.loop import train_classifier
from ..images.training.result import ClassifierFit, Curves
from ..images.training.specs import ClassifierTraining
from ..plotting.accuracy import accuracy_curves, image_table
from ..processes import place
from ..progress import Progress
from ..reports.parallel import Job, OneBar, run_jobs
from ..reports.recorded import provenance

MODEL, CHECKPOINT, METRICS = "model.safetensors", "checkpoint.safetensors", "metrics.json"
CURVE, MISREAD = "curve.png", "misread.png"
WRITTEN = (MODEL, METRICS, CURVE, MISREAD)
SHOWN = 32  # misread images


@dataclass(frozen=True)
class TrainingSummary:
    """What a training command prints at its end, and how the training ended."""

    sentences: list[str]
    paths: list[Path]
    finished: bool = True
    interrupted: bool = False


def check_outputs(out: Path, seeds: list[int] | None) -> None:
    """Raise, before anything is computed, if `out` cannot take the files."""
    if seeds is None:
        check_folder(out, [*WRITTEN, CHECKPOINT])
        return
    check_folder(out, [METRICS, CURVE, *(f"seed-{seed}" for seed in seeds)])
    for seed in seeds:
        check_folder(out / f"seed-{seed}", [*WRITTEN, CHECKPOINT])


def train_into(
    out: Path,
    training: ClassifierTraining,
    recipe: str,
    seed: int,
    resume: bool,
    device: str | None,
    progress: Progress,
) -> TrainingSummary | None:
    """Train one model and write its files; the curves are written after every epoch.

    Returns None in every process of torchrun but the first.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "model": dict(training.spec.options),
        "recipe": recipe,
        "settings": dataclasses.asdict(training.recipe) | {"optimizer": repr(training.recipe.optimizer)},
        "seed": seed,
        **provenance(),
    }

    def write_curves(curves: Curves) -> None:
        with whole_files(out / METRICS, out / CURVE) as (numbers, curve):
            write_json(numbers, about | {"finished": False, "curves": curves.as_json()})
            _draw_curve(curve, {"training": [curves.train_accuracy], "test": [curves.test_accuracy]})

    train, tests = training.sets()
    with place(device) as at:
        found = train_classifier(
            training.spec.build(seed),
            train,
            tests,
            training.recipe,
            seed=seed,
            at=at,
            checkpoint=out / CHECKPOINT,
            resume=resume,
            progress=progress,
            callback=write_curves,
        )
    if at.rank != 0:
        return None
    curves = found.curves
    metrics = about | {
        "parameters": sum(p.numel() for p in found.model.parameters()),
        "test_accuracy": found.accuracy,
        "images": len(train),
        "tests": len(tests),
        "seconds": round(found.fit.seconds, 1),
        "processes": found.processes,
        "finished": found.fit.finished,
        "message": found.fit.message,
        "curves": curves.as_json(),
    }
    with whole_files(*(out / name for name in WRITTEN)) as (model, numbers, curve, misread):
        training.spec.save(found.model, model)
        write_json(numbers, metrics)
        _draw_curve(curve, {"training": [curves.train_accuracy], "test": [curves.test_accuracy]})
        misread_images(found, tests, training.spec.family).savefig(misread, dpi=150, format="png")
    sentences = [f"{len(found.fit.losses)} updates in {found.fit.seconds:.0f} s: {found.fit.message}."]
    if found.accuracy is not None:
        sentences.append(f"Test images: {found.accuracy:.2%} of {len(tests):,} classified correctly.")
    return TrainingSummary(sentences, [out / name for name in WRITTEN], found.fit.finished, found.fit.interrupted)


def train_seeds(
    out: Path,
    training: ClassifierTraining,
    recipe: str,
    seeds: list[int],
    resume: bool,
    device: str | None,
    workers: int | None,
    progress: Progress,
    executor: Executor | None = None,
) -> TrainingSummary:
    """Train once for each seed, several at once, each in a folder of its own; write a summary of all.

    With an `executor`, such as that of a dask client for a cluster that shares the folder, the trainings run there.
    """
    if "LOCAL_RANK" in os.environ:
        raise ArgumentError("seeds is given under torchrun, which trains one model: give one --seed.")
    workers = whole_number("workers", os.cpu_count() or 1 if workers is None else workers)
    updates = training.updates  # reads the images
    jobs = [
        Job(f"seed {seed}", _train_seed, (out / f"seed-{seed}", training, recipe, seed, resume, device), updates)
        for seed in seeds
    ]
    ended = run_jobs(jobs, workers, progress, executor)
    metrics = [json.loads((out / f"seed-{seed}" / METRICS).read_text(encoding="utf-8")) for seed in seeds]
    accuracies = [found["test_accuracy"] for found in metrics if found["test_accuracy"] is not None]
    summary: dict[str, Any] = {"seeds": seeds, "test_accuracy": accuracies}
    sentences = []
    if accuracies:
        summary |= {"min": min(accuracies), "max": max(accuracies), "mean": float(np.mean(accuracies))}
        sentences.append(
            f"Test images classified correctly by {len(accuracies)} seeds: {min(accuracies):.2%} to {max(accuracies):.2%}, "
            f"mean {np.mean(accuracies):.2%}."
        )
    with whole_files(out / METRICS, out / CURVE) as (numbers, curve):
        write_json(numbers, summary)
        _draw_curve(
            curve,
            {
                "training": [found["curves"]["train_accuracy"] for found in metrics],
                "test": [found["curves"]["test_accuracy"] for found in metrics],
            },
        )
    return TrainingSummary(
        sentences,
        [out / METRICS, out / CURVE, *(out / f"seed-{seed}" for seed in seeds)],
        all(found.finished for found in ended),
        any(found.interrupted for found in ended),
    )


def misread_images(found: ClassifierFit, tests: ImageData, family: str):
    """Draw misclassified test images, the most confident mistakes first, each titled "label as answer"."""
    names = CLASSES if family == "anodev2" else [str(k) for k in range(tests.classes)]
    rows = found.misread(tests.labels)
    captions = []
    for row in rows[:SHOWN].tolist():
        captions.append(f"{names[tests.labels[row]]}\nas {names[found.logits[row].argmax()]}")
    title = f"{len(rows):,} of {len(tests):,} test images misread, the most confident mistakes first"
    return image_table(tests.images[rows[:SHOWN]].numpy(), captions, title)


def _train_seed(
    out: Path,
    training: ClassifierTraining,
    recipe: str,
    seed: int,
    resume: bool,
    device: str | None,
    advance: Callable[..., None],
) -> TrainingSummary:
    return train_into(out, training, recipe, seed, resume, device, OneBar(advance))


def _draw_curve(path: Path, runs: dict[str, list[list[float]]]) -> None:
    accuracy_curves({"Accuracy while training": runs}, "images classified correctly").savefig(
        path, dpi=150, format="png"
    )
