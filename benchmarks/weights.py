"""Trained weights of the networks that are timed; with untrained weights a solve would be trivial.

The file next to this module contains them in float32. ``python -m benchmarks --train`` retrains them and writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pyneuralode.errors import DataError
from pyneuralode.files import whole_files
from pyneuralode.progress import Progress

FILE = Path(__file__).with_name("weights.safetensors")
SPIRAL, COVID, FLAG = "spiral", "covid", "flag"
FLAG_UPDATES = 300

TRAINED: dict[str, dict[str, Any]] = {
    SPIRAL: {"sizes": [2, 50, 2], "activation": "tanh", "input_map": "cube"},
    COVID: {"sizes": [4, 100, 50, 4], "activation": "swish", "input_scale": 0.2, "output_scale": 0.01},
    FLAG: {"dim": 2, "width": 64, "hidden": 16},
}


def stored(name: str) -> dict[str, np.ndarray]:
    """Return the trained parameters of a network, in the order of its field."""
    from safetensors.numpy import load_file

    if not FILE.is_file():
        raise DataError(f"{FILE} does not exist: run `python -m benchmarks --train` to write it.")
    arrays = load_file(FILE)
    return {parameter: arrays[f"{name}/{parameter}"] for parameter in _field(name).shapes()}


def train_all(progress: Progress, path: Path = FILE) -> dict[str, float]:
    """Fit every network, write the file, and return the loss of each."""
    from safetensors.numpy import save_file

    arrays, losses = {}, {}
    for name, train in ((SPIRAL, _train_spiral), (COVID, _train_covid), (FLAG, _train_flag)):
        parameters, losses[name] = train(progress)
        arrays |= {f"{name}/{parameter}": value.astype(np.float32) for parameter, value in parameters.items()}
    with whole_files(path) as (partial,):
        save_file(arrays, partial, {"losses": json.dumps(losses)})
    return losses


def _field(name: str):
    from pyneuralode.fields import MLP, HyperMLP

    return (HyperMLP if name == FLAG else MLP)(**TRAINED[name])


def _train_spiral(progress: Progress) -> tuple[dict[str, np.ndarray], float]:
    """Fit 30 points of the cubic spiral: Adam, then L-BFGS."""
    from pyneuralode.fields import Linear
    from pyneuralode.fitting import LBFGS, Adam, Stage, fit
    from pyneuralode.models import NeuralODE, solve

    start, ts = np.array([2.0, 0.0]), np.linspace(0, 1.5, 30)
    truth = Linear(((-0.1, -2.0), (2.0, -0.1)), input_map="cube")
    states = solve(truth, start, ts, solver="Vern7", rtol=1e-10, atol=1e-10, engine="torch").ys
    model = NeuralODE(_field(SPIRAL), solver="Vern7", rtol=1e-8, atol=1e-8, engine="torch")
    plan = [Stage(Adam(1e-2, schedule="cosine", final=0.05), 1000), Stage(LBFGS(), 1500)]
    result = fit(model, ts, states, y0=start, plan=plan, progress=progress)
    return model.arrays(), result.loss


def _train_covid(progress: Progress) -> tuple[dict[str, np.ndarray], float]:
    """Fit Sweden's epidemic as in the report `covid`, with the swish activation of the published network."""
    from dataclasses import replace

    from pyneuralode.datasets import sweden
    from pyneuralode.epidemics import fit_neural, neural_plan
    from pyneuralode.models import AugmentedNeuralODE

    data = sweden("report")
    days, values = data["day"].to_numpy(float), 50 / 1e7 * data["new_cases_avg7"].to_numpy()
    field = replace(_field(COVID), init_scale=2.0, init_bias=1.0)
    model = AugmentedNeuralODE(field, augment_dim=3, solver="Vern7", rtol=1e-8, atol=2e-9, engine="torch")
    plan = neural_plan(days[-1], goal=7.5e-5)
    result = fit_neural(days, values, model=model, plan=plan, smoothness=1e-3, progress=progress)
    return model.arrays(), result.loss


def _train_flag(progress: Progress) -> tuple[dict[str, np.ndarray], float]:
    """Fit the flag's density for a few hundred updates, in the published setup."""
    from pyneuralode.datasets.densities import flag
    from pyneuralode.fitting import Adam
    from pyneuralode.flows import ContinuousFlow

    flow = ContinuousFlow(_field(FLAG), times=(0.0, 10.0), engine="torch")
    fitted = flow.fit(sampler=flag().sample, updates=FLAG_UPDATES, optimizer=Adam(5e-3), progress=progress)
    return flow.arrays(), float(fitted.running()[-1])
