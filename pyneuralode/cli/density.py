"""`pyneuralode fit-density`: a continuous normalizing flow fitted to a gray image as a density."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .error_reporting import end_with, one_sentence
from .options import Seed

MODEL, FIGURE, FILM, METRICS = "flow.safetensors", "density.png", "flow.gif", "metrics.json"
FILES = (MODEL, FIGURE, FILM, METRICS)
_SQUARE = (-2.2, 2.2, -2.2, 2.2)  # contains the picture and most of the base density
_BATCH_SEED = 2022


@one_sentence()
def fit_density(
    image: Annotated[Path, Argument(metavar="IMAGE", help="A PNG, JPEG or other image; darker means denser.")],
    out: Annotated[Path, Option(help="Folder for the flow, the figure, the animation and the numbers.")],
    updates: Annotated[int, Option(help="Number of training updates.")] = 1500,
    batch: Annotated[int, Option(help="New points per update.")] = 512,
    width: Annotated[int, Option(help="Units of the flow's network.")] = 64,
    hidden: Annotated[int, Option(help="Hidden units of the network that computes the weights.")] = 64,
    lr: Annotated[float, Option(help="Highest learning rate of Adam.")] = 0.01,
    bright: Annotated[bool, Option("--bright", help="Brighter means denser.")] = False,
    frames: Annotated[int, Option(help="Frames of the animation.")] = 30,
    seed: Seed = 0,
) -> None:
    """Fit a continuous normalizing flow to the density given by an image, and draw the flow.

    Ctrl-C keeps the best fit so far.
    """
    from ..arguments import whole_number
    from ..datasets.densities import read_image
    from ..errors import SolverError
    from ..fields import HyperMLP
    from ..files import check_folder, whole_folder, write_json
    from ..fitting import Adam
    from ..fitting.schedules import OneCycle
    from ..flows import ContinuousFlow
    from ..flows.initialization import spread_units
    from ..flows.plots import density_frames, grid_points, log_density_at
    from ..plotting.flows import fitted_density, flow_animation
    from ..progress import RichProgress

    whole_number("frames", frames, 2)
    whole_number("seed", seed, 0)
    density = read_image(image, bright=bright)
    check_folder(out, FILES)
    field = HyperMLP(2, width, hidden, output_scale=8.0)
    flow = ContinuousFlow(field, rtol=1e-3, atol=1e-3)
    flow.set_arrays(spread_units(field, seed))
    points = density.sample(20_000, (seed, _BATCH_SEED))
    with RichProgress() as progress:
        fit = flow.fit(
            sampler=density.sample,
            updates=updates,
            batch=batch,
            optimizer=Adam(lr, betas=(0.9, 0.99)),
            schedule=OneCycle(lr, updates),
            seed=seed,
            progress=progress,
        )
        if not len(fit.losses):
            raise KeyboardInterrupt if fit.interrupted else SolverError(fit.message)
        arrays = flow.arrays()
        flow = ContinuousFlow(field)
        flow.set_arrays(arrays)
        task = progress.task("pictures", frames)
        shown = density_frames(flow, frames, _SQUARE, advance=task.advance)
    logs = log_density_at(flow, points).astype(float)
    metrics = {
        "loss": float(-logs.mean()),
        "entropy": density.entropy,
        "divergence": float((density.log_density(points) - logs).mean()),
        "running": float(fit.running()[-1]),
        "points": len(points),
        "updates": len(fit.losses),
        "batch": batch,
        "seconds": round(fit.seconds, 3),
        "seed": seed,
        "finished": fit.finished,
        "message": fit.message,
    }
    figure = fitted_density(
        points[:4000], log_density_at(flow, grid_points(density.extent, 200)), shown[2][-1], density.extent
    )
    animation = flow_animation(*shown, _SQUARE)
    with whole_folder(out) as folder:
        flow.save(folder / MODEL)
        figure.savefig(folder / FIGURE, dpi=150)
        animation.save(folder / FILM, writer="pillow")
        write_json(folder / METRICS, metrics)
    if not fit.finished:
        typer.echo(f"The fit was {fit.message}. The parameters have been saved.", err=True)
    sentence = (
        f"loss {metrics['loss']:.4f} nats on {len(points):,} new points; the entropy of the image, the lowest possible "
        f"loss, is {density.entropy:.4f}; the divergence is {metrics['divergence']:.4f}"
    )
    end_with([sentence], [out / name for name in FILES], fit.finished, fit.interrupted)
