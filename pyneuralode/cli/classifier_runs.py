"""Training runs of classifiers: the computations and files of `pyneuralode train odenet` and `train anodev2`."""

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
SHOWN = 32  # number of misread images in the figure


@dataclass(frozen=True)
class TrainingSummary:
    """The final output of a training command, and whether the training finished or was interrupted."""

    sentences: list[str]
    paths: list[Path]
    finished: bool
    interrupted: bool


@dataclass(frozen=True)
class ClassifierRun:
    """A training run with the recipe named `recipe`, and the folder `out` for its files."""

    out: Path
    training: ClassifierTraining
    recipe: str
    resume: bool
    device: str | None

    def check_outputs(self, seeds: list[int] | None) -> None:
        """Raise an error, before anything is computed, if the files cannot be written to `out`."""
        if seeds is None:
            check_folder(self.out, [*WRITTEN, CHECKPOINT])
            return
        check_folder(self.out, [METRICS, CURVE, *(f"seed-{seed}" for seed in seeds)])
        for seed in seeds:
            self.of_seed(seed).check_outputs(None)

    def of_seed(self, seed: int) -> ClassifierRun:
        """Return the run for one of several seeds, with its own folder."""
        return dataclasses.replace(self, out=self.out / f"seed-{seed}")

    def train(self, seed: int, progress: Progress) -> TrainingSummary | None:
        """Train one model and write its files; the curves are written after every epoch.

        Returns None in all processes of torchrun except the first.
        """
        out, training = self.out, self.training
        out.mkdir(parents=True, exist_ok=True)
        about = {
            "model": dict(training.spec.options),
            "recipe": self.recipe,
            "settings": dataclasses.asdict(training.recipe) | {"optimizer": repr(training.recipe.optimizer)},
            "seed": seed,
            **provenance(),
        }

        def write_curves(curves: Curves) -> None:
            with whole_files(out / METRICS, out / CURVE) as (numbers, curve):
                write_json(numbers, about | {"finished": False, "curves": curves.as_json()})
                _draw_curve(curve, [curves.as_json()])

        train, tests = training.sets()
        with place(self.device) as at:
            found = train_classifier(
                training.spec.build(seed),
                train,
                tests,
                training.recipe,
                seed=seed,
                at=at,
                checkpoint=out / CHECKPOINT,
                resume=self.resume,
                progress=progress,
                callback=write_curves,
            )
        if at.rank != 0:
            return None
        fit, curves = found.fit, found.curves.as_json()
        metrics = about | {
            "parameters": sum(p.numel() for p in found.model.parameters()),
            "test_accuracy": found.accuracy,
            "images": len(train),
            "tests": len(tests),
            "seconds": round(fit.seconds, 1),
            "processes": found.processes,
            "finished": fit.finished,
            "message": fit.message,
            "curves": curves,
        }
        with whole_files(*(out / name for name in WRITTEN)) as (model, numbers, curve, misread):
            training.spec.save(found.model, model)
            write_json(numbers, metrics)
            _draw_curve(curve, [curves])
            misread_images(found, tests, training.spec.family).savefig(misread, dpi=150, format="png")
        sentences = [f"{len(fit.losses)} updates in {fit.seconds:.0f} s: {fit.message}."]
        if found.accuracy is not None:
            sentences.append(f"Test images: {found.accuracy:.2%} of {len(tests):,} classified correctly.")
        return TrainingSummary(sentences, [out / name for name in WRITTEN], fit.finished, fit.interrupted)

    def train_seeds(
        self, seeds: list[int], workers: int | None, progress: Progress, executor: Executor | None = None
    ) -> TrainingSummary:
        """Train a model for each seed, several in parallel, each in its own folder; write a summary of all runs.

        If an `executor` is given, such as that of a dask client for a cluster that shares the folder, it runs the jobs.
        """
        if "LOCAL_RANK" in os.environ:
            raise ArgumentError("seeds is given, but torchrun trains a single model: use --seed instead.")
        workers = whole_number("workers", os.cpu_count() or 1 if workers is None else workers)
        updates = self.training.updates  # reads the images
        jobs = [Job(f"seed {seed}", _train_seed, (self.of_seed(seed), seed), updates) for seed in seeds]
        ended = run_jobs(jobs, workers, progress, executor)
        folders, numbers, curve = [self.of_seed(seed).out for seed in seeds], self.out / METRICS, self.out / CURVE
        metrics = [json.loads((folder / METRICS).read_text(encoding="utf-8")) for folder in folders]
        accuracies = [found["test_accuracy"] for found in metrics if found["test_accuracy"] is not None]
        summary: dict[str, Any] = {"seeds": seeds, "test_accuracy": accuracies}
        sentences = []
        if accuracies:
            low, high, mean = min(accuracies), max(accuracies), float(np.mean(accuracies))
            summary |= {"min": low, "max": high, "mean": mean}
            sentences.append(
                f"Test images classified correctly, over {len(accuracies)} seeds: {low:.2%} to {high:.2%}, mean "
                f"{mean:.2%}."
            )
        with whole_files(numbers, curve) as (numbers_file, curve_file):
            write_json(numbers_file, summary)
            _draw_curve(curve_file, [found["curves"] for found in metrics])
        return TrainingSummary(
            sentences,
            [numbers, curve, *folders],
            all(found.finished for found in ended),
            any(found.interrupted for found in ended),
        )


def misread_images(found: ClassifierFit, tests: ImageData, family: str):
    """Draw misclassified test images, the most confident mistakes first, each with the title "label as prediction"."""
    names = CLASSES if family == "anodev2" else [str(k) for k in range(tests.classes)]
    rows = found.misread(tests.labels)
    captions = []
    for row in rows[:SHOWN].tolist():
        captions.append(f"{names[tests.labels[row]]}\nas {names[found.logits[row].argmax()]}")
    title = f"{len(rows):,} of {len(tests):,} test images misread, the most confident mistakes first"
    return image_table(tests.images[rows[:SHOWN]].numpy(), captions, title)


def _train_seed(run: ClassifierRun, seed: int, advance: Callable[..., None]) -> TrainingSummary | None:
    return run.train(seed, OneBar(advance))


def _draw_curve(path: Path, runs: list[dict[str, Any]]) -> None:
    """Draw the curves of one or several runs, in the form returned by `Curves.as_json`."""
    accuracies = {
        "training": [curves["train_accuracy"] for curves in runs],
        "test": [curves["test_accuracy"] for curves in runs],
    }
    figure = accuracy_curves({"Accuracy while training": accuracies}, "images classified correctly")
    figure.savefig(path, dpi=150, format="png")
