"""Neural differential equations in Python. This module defines the public names, each imported when first used."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_MODULES = {
    "fields": "MLP Linear SEIR Equations VectorField HyperMLP ConcatMLP GatedMLP ConcatConv",
    "models": "solve NeuralODE AugmentedNeuralODE",
    "python_problems": "solve_sde solve_dae solve_dde",
    "model_files": "load",
    "problem": "Control Event Solution",
    "tableaus": "Tableau",
    "gradients": "Backprop Checkpointed BacksolveAdjoint InterpolatingAdjoint GaussAdjoint QuadratureAdjoint ForwardMode",
    "engines.julia_engine.session": "start_julia",
    "dropin": "odeint odeint_adjoint odeint_dense odeint_event",
    "fitting": "fit collocate_data multiple_shoot FitResult GrowingSpan Stage Adam AdamW RMSprop SGD LBFGS",
    "flows": "ContinuousFlow PlanarFlow FlowFit",
    "images": "ODEBlock CoupledODE",
    "engines.julia_engine.code_fields": "JuliaFunction LuxModel",
    "engines.selection": "Julia",
    "errors": "PyNeuralODEError ArgumentError SolverError ModelFileError EngineError DataError",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'pyneuralode' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
