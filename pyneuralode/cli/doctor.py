"""`pyneuralode doctor`: show the installed software, and time a first gradient."""

from __future__ import annotations

import os
import platform
import sys
from typing import Annotated

import typer
from typer import Option

from .error_reporting import one_sentence


@one_sentence()
def doctor(
    time: Annotated[bool, Option("--time", help="Start the engines and time a first gradient.")] = False,
) -> None:
    """Show what is installed and what to do next. Nothing is downloaded, and only --time starts Julia."""
    from importlib.metadata import PackageNotFoundError, version

    from .. import __version__
    from ..engines.julia_engine.probe import probe

    _line("pyneuralode", __version__)
    _line("Python", f"{platform.python_version()} ({sys.executable})")
    _line("Platform", f"{platform.platform()}, {os.cpu_count()} cores")
    torch = _describe_torch()
    for package in ("numba", "juliacall", "diffeqpy"):
        try:
            _line(package, version(package))
        except PackageNotFoundError:
            _line(package, "not installed")
    julia = probe()
    _describe_julia(julia)

    typer.echo("")
    if not torch:
        typer.echo(
            "Next: reinstall torch, since nothing runs without it: `python -m pip install --force-reinstall torch`."
        )
        raise typer.Exit(1)
    if julia.found:
        typer.echo("Both engines are ready: engine='auto' uses Julia.")
    else:
        typer.echo("The torch engine is ready; the Julia engine is not, so engine='auto' uses torch.")
    if time:
        _report_times(julia.found)
    hint = "" if julia.found and not julia.warning else "; for the Julia engine, see its line above"
    typer.echo(f"Next: `pyneuralode report --list`{hint}.")


def _line(name: str, value: str) -> None:
    typer.echo(f"{name:<12} {value}")


def _describe_torch() -> bool:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library is missing or incompatible
        _line("torch", f"cannot be loaded: {error}")
        return False
    _line("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        _line("CUDA", f"{torch.version.cuda}: {', '.join(names)}")
    elif torch.version.cuda is None:
        _line("CUDA", "no: this build of torch is for the CPU")
    else:
        _line("CUDA", f"no: torch is built for CUDA {torch.version.cuda}, but sees no device")
    return True


def _describe_julia(julia) -> None:
    from ssl import OPENSSL_VERSION

    from ..engines.julia_engine.installation import openssl_ceiling

    if julia.executable is not None:
        _line("Julia", f"{julia.version or 'of unknown version'} ({julia.executable}), through {julia.how}")
    if julia.project is not None:
        _line("  project", str(julia.project))
        _line("  PythonCall", julia.pythoncall or "not installed")
        _line("  PyNeuralODE", str(julia.package) if julia.package else "not installed from a local folder")
        _line("  sysimage", str(julia.sysimage) if julia.sysimage else "none")
    ceiling = openssl_ceiling()
    if ceiling is not None:
        _line(
            "  newest",
            f"{ceiling}: newer versions of Julia need a newer OpenSSL than that of Python, {OPENSSL_VERSION}",
        )
    if not julia.found:
        _line("Julia", f"not ready: {julia.reason}")
    elif julia.warning:
        _line("Julia", f"ready, but {julia.warning}")
    else:
        _line("Julia", "ready")


def _report_times(julia: bool) -> None:
    from .first_gradient import PROMISE, first_gradient

    typer.echo("")
    typer.echo("Seconds to the first gradient of a neural ODE (2-50-2, Tsit5, Backprop) in a new process:")
    for engine in ("torch", "julia") if julia else ("torch",):
        stages = first_gradient(engine)
        total = sum(stages.values())
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
        kept = ""
        if engine == "julia":
            kept = f"; target: at most {PROMISE:g}, {'met' if total <= PROMISE else 'missed'}"
        typer.echo(f"  {engine:<6} {total:6.1f}  ({parts}){kept}")
    typer.echo("")
