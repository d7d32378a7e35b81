"""Multiple shooting and smoothing for collocation, computed by Julia's DiffEqFlux."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import nonnegative_number, positive_number, real_array, real_tensor, whole_number
from ..engines.registry import choose_engine
from ..engines.torch_engine.once_differentiable import once_differentiable
from ..errors import ArgumentError, kind_of, unknown_name
from ..fields import VectorField
from ..models import NeuralODE
from ..problem.values import check_finite, check_increasing
from ..solvers import Solver

KERNELS = (
    "TriangularKernel",
    "EpanechnikovKernel",
    "UniformKernel",
    "QuarticKernel",
    "TriweightKernel",
    "TricubeKernel",
    "CosineKernel",
    "GaussianKernel",
    "LogisticKernel",
    "SigmoidKernel",
    "SilvermanKernel",
)


def collocate_data(
    ts: Any, ys: Any, *, kernel: str = "TriangularKernel", bandwidth: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate derivatives and states from noisy data by local regression (DiffEqFlux's `collocate_data`).

    The derivatives can be fitted without solving anything: choose parameters for which the field at the smoothed
    states equals them, and start a fit of trajectories from there.

    Parameters
    ----------
    ts : array (T,)
        Increasing times.
    ys : array (T, dim)
        Measured states.
    kernel : str
        The weight of a point by its distance: one of the names in `pyneuralode.fitting.shooting.KERNELS`.
    bandwidth : float, optional
        The distance within which points count, as a fraction of the whole time span; by default a fraction that falls
        with the number of points (0.40 for 20 of them).

    Returns
    -------
    tuple of two arrays (T, dim)
        The derivatives, and the smoothed states.

    Raises
    ------
    ArgumentError
        If an argument is invalid, or too few points lie within the bandwidth.
    EngineError
        If there is no Julia, or it does not have DiffEqFlux; the message says what to do.

    References
    ----------
    Liang and Wu, "Parameter estimation for differential equation models using a framework of measurement error in
    regression models", Journal of the American Statistical Association 103 (2008).

    Examples
    --------
    >>> import numpy as np
    >>> import pyneuralode as pn
    >>> ts = np.linspace(0, 1, 21)
    >>> slopes, states = pn.collocate_data(ts, np.exp(-ts)[:, None], bandwidth=0.2)  # doctest: +SKIP
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    times, data = check_increasing(ts).numpy(), real_array("ys", ys)
    _check_data(times, data)
    if data.ndim != 2:
        raise ArgumentError(f"ys has shape {data.shape}: give ys (T, dim).")
    width = None if bandwidth is None else positive_number("bandwidth", bandwidth)
    reply = _call("collocate", {"data": data.astype(float).T, "ts": times, "kernel": kernel, "bandwidth": width})
    return np.array(reply["slopes"].T, order="C"), np.array(reply["states"].T, order="C")


def multiple_shoot(
    model: NeuralODE, ts: Any, ys: Any, *, group_size: int, continuity_term: float = 100.0
) -> tuple[Tensor, list[np.ndarray]]:
    """Return the loss of multiple shooting, and the predictions of each group (DiffEqFlux's `multiple_shoot`).

    The data are divided into groups of consecutive times, of which neighbors share one. Each group is solved from its
    first measured state. The loss is the sum of the squared differences from the data plus `continuity_term` times the
    sum of the absolute gaps between the end of a group and the first state of the next. Short groups make the loss
    easier to minimize than that of the whole trajectory.

    Parameters
    ----------
    model : NeuralODE
        A model of a described field (`VectorField`), with a solver that the Julia engine supports, adaptive steps, and
        numbers as tolerances.
    ts : array (T,)
        Increasing times.
    ys : array or tensor (T, dim) or (T, samples, dim)
        Measured states; their dtype is that of the computation.
    group_size : int
        The number of times in a group, from 2 to T.
    continuity_term : float
        The weight of the gaps.

    Returns
    -------
    tuple
        The loss, a tensor of shape () that autograd connects to the model's parameters, and a list of arrays (n, dim)
        or (n, samples, dim), one for each group. If a group cannot be solved, the loss is infinite.

    Raises
    ------
    ArgumentError
        If an argument is invalid or the Julia engine does not support the model.
    EngineError
        If there is no Julia, or it does not have DiffEqFlux; the message says what to do.

    Examples
    --------
    >>> import numpy as np
    >>> import pyneuralode as pn
    >>> model, ts = pn.NeuralODE(pn.MLP((2, 8, 2))), np.linspace(0, 4, 41)
    >>> ys = np.stack([np.cos(ts), -np.sin(ts)], axis=1)
    >>> loss, groups = pn.multiple_shoot(model, ts, ys, group_size=11)  # doctest: +SKIP
    >>> loss.backward()  # doctest: +SKIP
    """
    field = model.field if isinstance(model, NeuralODE) else None
    if not isinstance(field, VectorField):
        found = f"model is {kind_of(model)}" if field is None else f"the model's field is {kind_of(field)}"
        raise ArgumentError(f"{found}: give a NeuralODE with a VectorField, such as MLP((2, 50, 2)).")
    if not isinstance(solver := model.settings().solver, Solver) or "julia" not in solver.engines:
        raise ArgumentError(f"solver is {model.solver!r}, which Julia does not support: use another, such as 'Tsit5'.")
    control = model.control
    if (
        str(model.engine).lower() == "torch"
        or model.batch != "joint"
        or control.tstops
        or control.step_size is not None
    ):
        raise ArgumentError(
            "multiple_shoot runs in Julia, with adaptive steps and batch='joint': leave engine='torch', step_size, tstops "
            "and batch='independent' out of the model."
        )
    if np.ndim(control.rtol) or np.ndim(control.atol):
        raise ArgumentError("rtol or atol is an array, which multiple_shoot does not support: give numbers.")
    times, data = check_increasing(ts), real_tensor("ys", ys)
    if times.requires_grad or data.requires_grad:
        raise ArgumentError("ts or ys requires gradients, which multiple_shoot does not compute: write .detach().")
    times = times.numpy()
    _check_data(times, data)
    if data.ndim not in (2, 3) or data.shape[-1] != field.dim:
        raise ArgumentError(
            f"ys has shape {tuple(data.shape)}, but the field has dimension {field.dim}: give (T, dim) or "
            "(T, samples, dim)."
        )
    size = whole_number("group_size", group_size, 2)
    if size > len(times):
        raise ArgumentError(
            f"group_size is {size}, but ts has only {len(times)} times: give a number from 2 to {len(times)}."
        )
    weight = nonnegative_number("continuity_term", continuity_term)
    groups: list[np.ndarray] = []
    loss = _Shooting.apply(model, times, data, size, weight, groups, *model.tensors().values())
    return loss, groups


class _Shooting(torch.autograd.Function):
    """The loss, connected to the parameters; Julia computes both the loss and its gradient in one call."""

    @staticmethod
    def forward(ctx, model, times, data, size, weight, groups, *parameters):
        from ..engines.julia_engine.transfer import field_request, plain_control

        named = dict(zip(model.tensors(), parameters))
        request = {
            "field": field_request(model.field),
            "parameters": {name: value.detach().to(data.dtype).numpy() for name, value in named.items()},
            "data": data.numpy().T,
            "ts": times,
            "group_size": size,
            "continuity_term": weight,
            "solver": model.settings().solver.name,
            "control": plain_control(model.control),
        }
        reply = _call("multiple_shoot", request)
        groups.extend(np.array(group.T, order="C") for group in reply["predictions"])
        ctx.gradients = [
            torch.as_tensor(np.array(reply["parameters"][name]), dtype=value.dtype).reshape(value.shape)
            for name, value in named.items()
        ]
        return data.new_tensor(reply["loss"])

    @staticmethod
    @once_differentiable
    def backward(ctx, factor):
        return *[None] * 6, *(factor.to(gradient.dtype) * gradient for gradient in ctx.gradients)


def _check_data(times: np.ndarray, data: Any) -> None:
    if len(data) != len(times):
        raise ArgumentError(f"ys has {len(data)} rows, but ts has {len(times)} times: give one row for each time.")
    if 0 in data.shape:
        raise ArgumentError(f"ys has shape {tuple(data.shape)}: give at least one value for each time.")
    check_finite("ys", torch.as_tensor(data))


def _call(name: str, request: dict[str, Any]) -> dict[str, Any]:
    from ..engines.julia_engine.session import call

    choose_engine("julia")  # raises if there is no Julia
    return call(name, request)
