"""Invalid input raises pyneuralode's own one-line error, which names the argument and says what to write instead."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.julia_engine import session

LINEAR = pn.Linear(((0.0, 1.0), (-1.0, 0.0)))
Y0 = [1.0, 0.0]
NAN, INF = float("nan"), float("inf")
SINGLE = torch.ones(2, dtype=torch.float32)


def solve(f=LINEAR, y0=Y0, ts=(0.0, 1.0), **settings):
    return pn.solve(f, y0, ts, **settings)


def fit(ts=(0.0, 1.0, 2.0), data=(1.0, 0.5, 0.2), y0=Y0, **settings):
    return pn.fit(pn.NeuralODE(LINEAR), ts, data, y0=y0, plan=pn.Stage(pn.Adam(), 1), **settings)


ARGUMENTS = {
    "unsorted times": (lambda: solve(ts=[0, 2, 1]), "ts is not sorted: 2 is followed by 1"),
    "repeated times": (lambda: solve(ts=[0, 1, 1]), "ts contains the time 1 twice"),
    "non-finite times": (lambda: solve(ts=[0, NAN, 1]), "ts contains a non-finite"),
    "one time": (lambda: solve(ts=[0.0]), "at least two times"),
    "text as times": (lambda: solve(ts=["a", "b"]), "ts has dtype"),
    "non-finite state": (lambda: solve(y0=[1.0, NAN]), "y0 contains a non-finite"),
    "state of the wrong size": (lambda: solve(y0=[1.0, 0.0, 0.0]), r"y0 of shape \(..., 2\)"),
    "integer tensor": (lambda: solve(y0=torch.ones(2, dtype=torch.int64)), "floating-point"),
    "tuple for a described field": (lambda: solve(y0=(torch.ones(2), torch.ones(2))), "y0 is a tuple"),
    "parts of two dtypes": (lambda: solve(lambda t, y: y, y0=(torch.ones(2), torch.ones(2).double())), "y0 mixes"),
    "negative rtol": (lambda: solve(rtol=-1e-6), "rtol is -1e-06"),
    "non-finite atol": (lambda: solve(atol=INF), "atol is inf"),
    "both tolerances zero": (lambda: solve(rtol=0, atol=0), "both 0"),
    "rtol below float32": (lambda: solve(y0=SINGLE, rtol=1e-9), "tighter than float32 can resolve"),
    "rtol below float64": (lambda: solve(rtol=1e-17), "tighter than float64 can resolve"),
    "atol of the wrong shape": (lambda: solve(atol=[1e-6, 1e-6, 1e-6]), r"atol has shape \(3,\)"),
    "unknown norm": (lambda: solve(norm="sample"), "did you mean 'samples'"),
    "samples that do not match": (
        lambda: solve(lambda t, y: y, y0=(torch.ones(2, 3), torch.ones(4)), norm="samples"),
        "the same number of samples along the first axis",
    ),
    "negative step": (lambda: solve(step_size=-0.1), "step_size is -0.1"),
    "min above max": (lambda: solve(min_step=2.0, max_step=1.0), "min_step <= max_step"),
    "no steps": (lambda: solve(max_steps=0), "max_steps is 0: give a positive integer"),
    "unknown solver": (lambda: solve(solver="tsit6"), "did you mean 'Tsit5'"),
    "unknown gradient": (lambda: solve(gradient="backprob"), "did you mean 'Backprop'"),
    "unknown engine": (lambda: solve(engine="jula"), "did you mean 'julia'"),
    "unknown control": (lambda: solve(tolerance=1e-3), "tolerance is not a known argument"),
    "unknown activation": (lambda: pn.MLP((2, 3, 2), "tahn"), "did you mean 'tanh'"),
    "unknown input map": (lambda: pn.MLP((2, 3, 2), input_map="cubed"), "did you mean 'cube'"),
    "net of one layer": (lambda: pn.MLP((2,)), "at least two positive widths"),
    "net of another size": (lambda: pn.MLP((2, 3, 1)), "as both the first and the last width"),
    "matrix not square": (lambda: pn.Linear(((1.0, 2.0),)), "square matrix"),
    "negative rate": (lambda: pn.SEIR(gamma=-1.0), "gamma is -1.0"),
    "field is a number": (lambda: solve(3.0), "the field is a float"),
    "field of the wrong shape": (
        lambda: solve(lambda t, y: y[:1]),
        r"returned shape \(1,\) for a state of shape \(2,\)",
    ),
    "field of the wrong dtype": (lambda: solve(lambda t, y: y.float()), "returned dtype torch.float32"),
    "field returns no tensor": (lambda: solve(lambda t, y: 1.0), "returned a float"),
    "missing parameter": (lambda: solve(parameters={}), "does not contain 'A'"),
    "parameter of the wrong shape": (lambda: solve(parameters={"A": np.eye(3)}), r"A has shape \(3, 3\)"),
    "parameter on another device": (lambda: solve(parameters={"A": torch.eye(2, device="meta")}), "A is on meta"),
    "unknown input map of a matrix": (
        lambda: pn.Linear(((0.0, 1.0), (1.0, 0.0)), input_map="sin"),
        "input_map is 'sin', which is unknown",
    ),
    "too much augmentation": (lambda: pn.AugmentedNeuralODE(LINEAR, augment_dim=2), "from 0 to 1"),
    "beyond float32": (
        lambda: pn.NeuralODE(LINEAR, dtype=torch.float32).set_arrays({"A": 1e300 * np.eye(2)}),
        "A contains a non-finite number",
    ),
    "unknown parameter": (lambda: pn.NeuralODE(LINEAR).set_arrays({"B": np.eye(2)}), "missing or unknown"),
    "dense output not kept": (lambda: solve()(0.5), "dense=True"),
    "outside the span": (lambda: solve(dense=True)(2.0), "outside the solved time span"),
    "steps beyond max_steps": (lambda: solve(step_size=1e-9), "more than max_steps"),
    "times of another length": (lambda: fit(data=[1.0, 0.5]), "data has 2 rows"),
    "unsorted data": (lambda: fit(ts=[0.0, 2.0, 1.0]), "sort the data by time"),
    "NaN without a mask": (lambda: fit(data=[1.0, NAN, 0.2]), "row 1: remove the row, or use mask='nan'"),
    "nothing but NaN": (lambda: fit(data=[NAN, NAN, NAN], mask="nan"), "no unmasked value"),
    "unknown mask": (lambda: fit(mask="NaNs"), "mask is 'NaNs'"),
    "negative weight": (lambda: fit(weights=[1.0, -1.0, 1.0]), "weights contains a negative"),
    "component that is not there": (lambda: fit(observed=[2]), "state components, from 0 to 1"),
    "unknown reduction": (lambda: fit(reduction="average"), "reduction is 'average'"),
    "t0 after the data": (lambda: fit(t0=1.0), "t0 is 1"),
    "unknown bound": (lambda: fit(bounds={"B": (0, None)}), "bounds contains 'B'"),
    "start outside its bounds": (lambda: fit(bounds={"A": (0, None)}), "not inside its bounds"),
    "everything fixed": (lambda: fit(fixed=["A"]), "leave at least one free"),
    "plan of another kind": (
        lambda: pn.fit(pn.NeuralODE(LINEAR), [0.0, 1.0], [1.0, 1.0], y0=Y0, plan=3),
        "plan is an int",
    ),
    "no iterations": (lambda: pn.Stage(pn.Adam(), 0), "iterations is 0"),
    "falling ends": (lambda: pn.GrowingSpan([2.0, 1.0]).stages(), "increasing times"),
    "end before the data": (
        lambda: pn.fit(pn.NeuralODE(LINEAR), [1.0, 2.0], [1.0, 1.0], y0=Y0, plan=pn.Stage(end=0.5)),
        "end is 0.5",
    ),
    "negative rate of learning": (lambda: pn.Adam(lr=-1.0), "lr is -1.0"),
    "unknown schedule": (lambda: pn.Adam(schedule="cosin"), "did you mean 'cosine'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(case):
    call, words = ARGUMENTS[case]
    with pytest.raises(pn.ArgumentError, match=words) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")


SOLVES = {
    "non-finite at the start": (lambda: solve(lambda t, y: y / 0 * NAN), "non-finite value at the start"),
    "blows up": (lambda: solve(lambda t, y: y**2, y0=[1.0], ts=[0.0, 2.0]), "the step fell to"),
    "blows up in fixed steps": (
        lambda: solve(lambda t, y: y**3, y0=[10.0], ts=[0.0, 50.0], solver="Euler", step_size=1.0),
        "state is non-finite at t = 50",
    ),
    "too many steps": (lambda: solve(max_steps=3, ts=[0.0, 100.0]), "max_steps = 3 steps and reached t ="),
    "min_step too large": (lambda: solve(min_step=5.0, ts=[0.0, 100.0]), "below the minimum of 5"),
    "turns into NaN": (lambda: solve(lambda t, y: y * (1 if t < 0.5 else NAN)), "becomes non-finite"),
}


@pytest.mark.parametrize("case", SOLVES)
def test_solves_that_cannot_reach_their_end(case):
    call, words = SOLVES[case]
    with pytest.raises(pn.SolverError, match=words) as caught:
        call()
    assert isinstance(caught.value, RuntimeError) and "\n" not in str(caught.value)
    assert np.isfinite(caught.value.t)


def test_julia_is_refused_in_one_sentence_where_there_is_none(monkeypatch):
    monkeypatch.setenv("PYNEURALODE_JULIA", "/no/julia")
    monkeypatch.setattr(session, "runs", lambda: False)  # even if another test has started Julia
    with pytest.raises(pn.EngineError, match="engine is 'julia', but PYNEURALODE_JULIA is /no/julia"):
        solve(engine="julia")
