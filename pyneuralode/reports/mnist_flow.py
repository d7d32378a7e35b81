"""Report `mnist-flow`: handwritten digits from a single CNF and from CNFs at several scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..datasets.mnist import mnist_images
from ..flows.images.training import SETUPS, Measurement, train_image_flow
from ..flows.images.transforms import quantize
from ..plotting.images import bits_curve, image_grid
from .base import Context, Findings, Row, Table
from .parallel import Job, OneBar

FLOWS = {"single flow": "small-single", "multi-scale flow": "small"}
SAMPLES = 64
# Published bits per dim of the test images; all models were trained on GPUs at full scale.
PUBLISHED = {
    "FFJORD, single flow": (1.05, "Grathwohl et al. 2019"),
    "FFJORD, multi-scale": (0.99, "Grathwohl et al. 2019"),
    "RNODE, multi-scale with penalties": (0.97, "Finlay et al. 2020"),
}


@dataclass
class TrainedDigitFlow:
    """Results of one training run.

    `losses`, `test` and `baseline` are bits per dim of every batch, of the test images and of independent per-pixel
    histograms; `samples` contains the pixel values of samples from the flow.
    """

    losses: np.ndarray
    seconds: float
    test: Measurement
    baseline: float
    samples: np.ndarray
    parameters: int


def run(context: Context) -> Findings:
    """Train the image flows.

    Quick scale: 40 updates and 400 test images. Full scale: the `small` setups of `pyneuralode train mnist-flow`, which
    are smaller than the published ones, and all test images.
    """
    tests = mnist_images("test")[: 400 if context.quick else None]
    batches = -(-len(tests) // 200)
    jobs = {}
    for name, scale in FLOWS.items():
        updates = 40 if context.quick else SETUPS[scale].updates
        jobs[name] = Job(name, train, (scale, updates, len(tests), context.seed), updates + batches)
    found = context.run_jobs(jobs)
    baseline = next(iter(found.values())).baseline
    levels = {"independent pixels": baseline, "FFJORD multi-scale, published": PUBLISHED["FFJORD, multi-scale"][0]}
    return Findings(
        rows=_rows(found, baseline),
        figures={
            "samples": image_grid({"MNIST": tests[:SAMPLES]} | {name: t.samples for name, t in found.items()}),
            "bits": bits_curve({name: t.losses for name, t in found.items()}, levels),
        },
        tables=[_table(found)],
        captions={
            "samples": "Test digits, and digits drawn from the two flows (R Fig. 10), without selection.",
            "bits": "Bits per dim of the training batches, averaged over 20 updates. The published level is from a "
            "full GPU run.",
        },
        notes=[
            "Trained here at a reduced scale: bfloat16 convolutions, penalties on the kinetic energy and the "
            "Jacobian (Finlay et al. 2020), two fixed steps of RK4 per CNF in training. The test images are "
            "evaluated in single precision by DP5 at tolerance 1e-5, with one draw each of the dequantization and of "
            "Hutchinson's noise.",
            "Pixels are dequantized, (x + u) / 256 with u uniform on [0, 1), so that bits per dim are an upper bound "
            "on the bits per pixel that an ideal code needs with this model. The report's code omits this step, and "
            "its density is unbounded.",
            "The first map of both reduced flows transforms every pixel to a standard normal variable, using the "
            "histogram of the pixel's position. Without CNFs, the flows are the baseline: independent per-pixel "
            "histograms with one added to each of their 256 counts. Any gain over the baseline is learned by the CNFs. "
            "The report's setup starts with the pixels instead, and FFJORD's with the logits of the pixels.",
            "The full scales of `pyneuralode train mnist-flow` (report, multiscale and fast) need a GPU. We have only "
            "tested them with a few updates of very small models and have not completed a training run; the published "
            "rows are other authors' results.",
        ],
    )


def train(scale: str, updates: int, tests: int, seed: int, advance: Callable[..., None]) -> TrainedDigitFlow:
    """Train one reduced flow; `advance(n, note)` is called after each update."""
    setup, images = replace(SETUPS[scale], updates=updates), (mnist_images("train"), mnist_images("test")[:tests])
    found = train_image_flow(setup, *images, seed=seed, progress=OneBar(advance))
    return TrainedDigitFlow(
        found.fit.losses,
        found.fit.seconds,
        found.test,
        found.baseline,
        quantize(found.flow.sample(SAMPLES, seed)).numpy(),
        sum(p.numel() for p in found.flow.parameters() if p.requires_grad),
    )


def _rows(found: dict[str, TrainedDigitFlow], baseline: float) -> list[Row]:
    rows = [
        Row(f"{name}, reduced scale: bits per dim", t.test.bits, target=baseline, unit="bits", source="R Fig. 10")
        for name, t in found.items()
    ]
    rows.append(Row("independent per-pixel histograms: bits per dim", baseline, unit="bits"))
    return rows + [
        Row(f"published at full GPU scale, {name}: bits per dim", None, bits, unit="bits", source=source)
        for name, (bits, source) in PUBLISHED.items()
    ]


def _table(found: dict[str, TrainedDigitFlow]) -> Table:
    columns = ["flow", "steps", "hidden", "parameters", "updates", "batch"]
    columns += ["seconds", "test bits", "standard error", "evaluations"]
    rows = []
    for name, t in found.items():
        setup = SETUPS[FLOWS[name]]
        net = [" ".join(setup.flow["steps"]), "-".join(map(str, setup.flow["hidden"])), t.parameters]
        measured = [t.seconds, t.test.bits, t.test.error, t.test.evaluations]
        rows.append([name, *net, len(t.losses), setup.batch, *measured])
    note = (
        "The number of parameters includes only learned parameters, not the histograms. Seconds are the time of the "
        "updates; with several workers, each worker has one thread. Evaluations are those of the vector fields for a "
        "batch of test images."
    )
    return Table("The two flows", columns, rows, note)
