"""Neural differential equations in Python. The public names; everything is imported when first used."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOME = {
    "MLP": "fields",
    "Linear": "fields",
    "SEIR": "fields",
    "Equations": "fields",
    "VectorField": "fields",
    "HyperMLP": "fields",
    "ConcatMLP": "fields",
    "GatedMLP": "fields",
    "ConcatConv": "fields",
    "solve": "models",
    "solve_sde": "python_problems",
    "solve_dae": "python_problems",
    "NeuralODE": "models",
    "AugmentedNeuralODE": "models",
    "load": "model_files",
    "Control": "problem",
    "Event": "problem",
    "Solution": "problem",
    "Tableau": "engines.torch_engine.tableaus",
    "Backprop": "gradients",
    "Checkpointed": "gradients",
    "BacksolveAdjoint": "gradients",
    "InterpolatingAdjoint": "gradients",
    "GaussAdjoint": "gradients",
    "QuadratureAdjoint": "gradients",
    "ForwardMode": "gradients",
    "start_julia": "engines.julia_engine.session",
    "odeint": "dropin",
    "odeint_adjoint": "dropin",
    "odeint_dense": "dropin",
    "odeint_event": "dropin",
    "fit": "fitting",
    "FitResult": "fitting",
    "GrowingSpan": "fitting",
    "Stage": "fitting",
    "Adam": "fitting",
    "AdamW": "fitting",
    "RMSprop": "fitting",
    "SGD": "fitting",
    "LBFGS": "fitting",
    "ContinuousFlow": "flows",
    "PlanarFlow": "flows",
    "FlowFit": "flows",
    "ODEBlock": "images",
    "CoupledODE": "images",
    "PyNeuralODEError": "errors",
    "ArgumentError": "errors",
    "SolverError": "errors",
    "ModelFileError": "errors",
    "EngineError": "errors",
    "DataError": "errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'pyneuralode' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
