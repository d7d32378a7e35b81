"""The command group `pyneuralode train`, and its command `mnist-flow`; torchrun runs them on several devices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from .classifier_commands import anodev2, odenet
from .error_reporting import end_with, one_sentence
from .options import Device, DownloadMNIST, Images, Out, Resume, Seed, replace_given

if TYPE_CHECKING:
    from ..flows.images.training import ImageFit, Setup

MODEL, CHECKPOINT, METRICS = "model.safetensors", "checkpoint.safetensors", "metrics.json"
SAMPLES, CURVE = "samples.png", "curve.png"
WRITTEN = (MODEL, METRICS, SAMPLES, CURVE)

train = typer.Typer(help="Train image models.", no_args_is_help=True)
train.command("odenet")(odenet)
train.command("anodev2")(anodev2)


@train.command("mnist-flow")
@one_sentence()
def mnist_flow(
    out: Out,
    scale: Annotated[
        str, Option(help="report, multiscale or fast (for a GPU); small or small-single (15 minutes on two cores).")
    ] = "report",
    updates: Annotated[int | None, Option(help="Number of updates.", show_default="the scale's")] = None,
    channels: Annotated[int | None, Option(help="Hidden channels.", show_default="the scale's")] = None,
    batch: Annotated[
        int | None, Option(help="Images per update, summed over all processes.", show_default="the scale's")
    ] = None,
    images: Images = None,
    precision: Annotated[
        str | None, Option(help="Precision of the convolutions: float32 or bfloat16.", show_default="the scale's")
    ] = None,
    device: Device = None,
    data: Annotated[
        Path | None, Option(help="Folder of the MNIST files.", show_default="$PYNEURALODE_DATA/mnist, then the cache")
    ] = None,
    download: DownloadMNIST = False,
    resume: Resume = False,
    seed: Seed = 0,
) -> None:
    """Train a normalizing flow on handwritten digits; Ctrl-C keeps the best model so far.

    On several GPUs: torchrun --nproc-per-node 4 --no-python pyneuralode train mnist-flow ...
    """
    from ..datasets.mnist import download_mnist, mnist_images
    from ..errors import unknown_name
    from ..files import check_folder
    from ..flows.images.training import SETUPS, train_image_flow
    from ..processes import place
    from ..progress import RichProgress

    if scale not in SETUPS:
        raise unknown_name("scale", scale, SETUPS)
    setup = replace_given(
        SETUPS[scale].with_channels(channels), updates=updates, batch=batch, images=images, precision=precision
    )
    check_folder(out, [*WRITTEN, CHECKPOINT])
    with RichProgress() as progress:
        if download:
            download_mnist(data, progress)
    digits, tests = mnist_images("train", data), mnist_images("test", data)
    out.mkdir(parents=True, exist_ok=True)
    with RichProgress() as progress, place(device) as at:
        if at.device.type == "cpu" and not scale.startswith("small"):
            typer.echo(
                f"Scale {scale} is meant for a GPU and takes days on a CPU; --scale small takes 15 minutes.", err=True
            )
        found = train_image_flow(
            setup, digits, tests, seed=seed, at=at, checkpoint=out / CHECKPOINT, resume=resume, progress=progress
        )
        if at.rank != 0:
            return
        _write(out, scale, setup, seed, found)
    end_with(summary(found), [out / name for name in WRITTEN], found.fit.finished, found.fit.interrupted)


def summary(found: ImageFit) -> list[str]:
    """Return the results of the training as a list of sentences."""
    updates = len(found.fit.losses)
    sentences = [f"{updates} updates in {found.fit.seconds:.0f} s: {found.fit.message}."]
    if found.test is not None:
        sentences.append(f"Test images: {found.test.bits:.4f} bits per dim, standard error {found.test.error:.4f}.")
    sentences.append(f"Independent per-pixel histograms: {found.baseline:.4f} bits per dim.")
    return sentences


def _write(out: Path, scale: str, setup: Setup, seed: int, found: ImageFit) -> None:
    """Write the model, the numbers and the figures: all files or none."""
    from ..files import whole_files, write_json
    from ..flows.images.transforms import quantize
    from ..plotting.images import bits_curve, image_grid

    metrics = {
        "scale": scale,
        "setup": dataclasses.asdict(setup),
        "seed": seed,
        "test": found.test and dataclasses.asdict(found.test),
        "histograms_bits_per_dim": found.baseline,
        "seconds": round(found.fit.seconds, 1),
        "processes": found.processes,
        "finished": found.fit.finished,
        "message": found.fit.message,
        "bits_per_dim": found.fit.losses.round(5).tolist(),
        "evaluations": found.fit.evaluations.tolist(),
    }
    pixels = quantize(found.flow.sample(64, seed)).cpu().numpy()
    levels = {"independent pixels": found.baseline}
    with whole_files(*(out / name for name in WRITTEN)) as (model, numbers, samples, curve):
        found.flow.save(model)
        write_json(numbers, metrics)
        image_grid({"samples": pixels}).savefig(samples, dpi=150, format="png")
        bits_curve({scale: found.fit.losses}, levels).savefig(curve, dpi=150, format="png")
