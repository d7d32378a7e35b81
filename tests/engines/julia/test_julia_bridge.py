"""The connection to Julia: processes, shared arrays, failures, Ctrl-C, whole fits, and a layer of a torch model."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.julia_engine import session, transfer
from pyneuralode.epidemics import fit_seir
from pyneuralode.fitting import TotalVariation
from pyneuralode.gradients import gradients_of

NET = pn.MLP((2, 6, 2), init_bias=0.3)
TIMES = np.linspace(0, 2, 9)


def python(code: str, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_without_julia_each_way_of_asking_has_its_answer(tmp_path):
    code = """
        import logging, sys
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        import numpy as np, pyneuralode as pn
        field = pn.Linear(((-1.0,),))
        print(pn.solve(field, np.ones(1), [0, 1]).engine, pn.solve(field, np.ones(1), [0, 1]).engine)
        for what in (lambda: pn.solve(field, np.ones(1), [0, 1], engine="julia"), lambda: pn.NeuralODE(field, engine="julia"),
                     lambda: pn.ODEBlock(field, engine="julia"), pn.start_julia):
            try:
                what()
            except pn.EngineError as error:
                print(error)
        print("juliacall" in sys.modules)
    """
    nowhere = {
        "PATH": str(tmp_path),
        "PYNEURALODE_ENGINE": "auto",
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
    }
    run = python(code, **nowhere, PYNEURALODE_JULIA="", PYTHON_JULIACALL_EXE="", PYTHON_JULIACALL_PROJECT="")
    lines = run.stdout.splitlines()
    assert lines[0].split() == ["torch", "torch"] or lines[0].startswith("torch (compiled)")
    assert len(lines) == 6 and all("pyneuralode setup-julia" in line for line in lines[1:5]) and lines[5] == "False"
    assert run.stderr.count("engine: torch, because") == 1


def test_an_unknown_process_is_answered():
    with pytest.raises(pn.ArgumentError, match="process is 'thread'"):
        pn.start_julia("thread")


def test_auto_takes_julia_for_what_it_can_do_and_torch_for_the_rest(julia, monkeypatch):
    monkeypatch.setenv("PYNEURALODE_ENGINE", "auto")
    assert pn.solve(NET, np.ones(2), TIMES).engine == "julia (fast)"
    assert pn.solve(NET, np.ones(2), TIMES, solver="Rodas5P").engine == "julia (sciml)"
    assert pn.solve(NET, np.ones(2), TIMES, solver="RK38").engine.startswith("torch")
    assert pn.solve(lambda t, y: -y, np.ones(2), TIMES).engine == "torch"
    monkeypatch.setenv("PYNEURALODE_ENGINE", "torch")
    assert pn.solve(NET, np.ones(2), TIMES).engine.startswith("torch")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"solver": "RK38"},
            "solver is 'RK38', which the Julia engine does not support: use another.* or write engine='torch'",
        ),
        ({"f": torch.nn.Bilinear(1, 2, 2), "y0": torch.ones(2)}, "torch.nn.Module"),
        ({"y0": np.ones(3)}, "give y0 of shape"),
        ({"y0": (torch.ones(2),)}, "tuple"),
        ({"ts": [0.0, 0.0, 1.0]}, "twice"),
        ({"parameters": {}}, "parameters does not contain 'weight_1'"),
        ({"rtol": 1e-20}, "rtol is 1e-20"),
        ({"rtol": np.ones(3)}, "one number for each component"),
        ({"y0": np.array([1.0, np.nan])}, "non-finite"),
        ({"solver": "Rodas5P", "y0": torch.ones(2, requires_grad=True)}, "InterpolatingAdjoint"),
    ],
)
def test_mistakes_are_answered_in_the_words_of_the_embedded_engine(julia, change, sentence):
    problem = {"f": NET, "y0": np.ones(2), "ts": TIMES} | change
    with pytest.raises(pn.ArgumentError, match=sentence.replace("(", r"\(")) as caught:
        pn.solve(problem.pop("f"), problem.pop("y0"), problem.pop("ts"), engine="julia", **problem)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gradient", ["Backprop", "InterpolatingAdjoint"])
def test_failed_solves_name_time_and_step(julia, gradient):
    explosion = pn.Linear(((1.0,),), input_map="square")
    for start, control in (([1.0], {}), ([0.1], {"max_steps": 3, "rtol": 1e-11, "atol": 1e-11})):
        errors = []
        for engine in ("torch", "julia"):
            with pytest.raises(pn.SolverError) as caught:
                pn.solve(explosion, np.array(start), [0.0, 2.0], engine=engine, gradient=gradient, **control)
            errors.append(caught.value)
        ours, theirs = errors
        assert 0 < theirs.t < 2 and theirs.step > 0
        if not control:
            assert theirs.t == pytest.approx(ours.t, rel=1e-3)
        assert str(theirs).split(":")[1] == str(ours).split(":")[1]  # the same advice


def test_julia_reads_arrays_where_they_lie(julia):
    wide = np.random.default_rng(0).normal(size=(6, 4))
    for y0 in (wide[:, :2], wide[::2, 1:3], np.asfortranarray(wide[:, :2]), wide[:, :2].astype(np.float32)):
        ours, theirs = (pn.solve(NET, y0, TIMES, engine=e, rtol=1e-5, atol=1e-5) for e in ("torch", "julia"))
        np.testing.assert_allclose(theirs.ys, ours.ys, rtol=0, atol=2e-5 if y0.dtype == np.float32 else 1e-12)
        assert theirs.ys.dtype == y0.dtype
    frozen = wide[:, :2].copy()
    frozen.setflags(write=False)
    pn.solve(NET, frozen, TIMES, engine="julia")


def test_states_stay_as_they_are_when_another_solve_follows(julia):
    first = pn.solve(NET, np.ones(2), TIMES, engine="julia")
    before = first.ys.copy()
    for _ in range(3):
        pn.solve(NET, np.zeros(2), TIMES, engine="julia")
    np.testing.assert_array_equal(first.ys, before)


def test_several_solves_wait_for_their_gradients(julia):
    model = pn.NeuralODE(NET, engine="julia")
    y0 = torch.ones(2, dtype=torch.float64)
    together = model(y0, TIMES).sum() + model(2 * y0, TIMES).square().sum()
    together.backward()
    found = model.weights["weight_1"].grad.clone()
    reference = pn.NeuralODE(NET, engine="torch")
    (reference(y0, TIMES).sum() + reference(2 * y0, TIMES).square().sum()).backward()
    torch.testing.assert_close(found, reference.weights["weight_1"].grad)


def test_a_loop_uses_its_solves_again_and_none_that_waits(julia):
    model, reference = (pn.NeuralODE(NET, engine=engine) for engine in ("julia", "torch"))
    y0 = torch.ones(2, dtype=torch.float64)
    for _ in range(3):
        # More solves than Julia keeps idle.
        ends = [[m(k * y0, TIMES)[-1] for k in range(7)] for m in (model, reference)]
        for m, states in zip((model, reference), ends):
            m.zero_grad()
            sum((k + 1) * state.sum() for k, state in enumerate(states)).backward()
        torch.testing.assert_close(
            model.weights["weight_1"].grad, reference.weights["weight_1"].grad, rtol=1e-9, atol=1e-11
        )


def test_what_differs_between_two_solves_is_told(julia):
    y0 = np.ones((3, 2))
    for change in (
        {},
        {"rtol": 1e-3},
        {"rtol": np.array([1e-3, 1e-9])},
        {"rtol": np.array([1e-9, 1e-3])},
        {"atol": np.array([[1e-3], [1e-4], [1e-5]])},
        {"step_size": 0.1},
        {"solver": "DP5"},
    ):
        ours, theirs = (pn.solve(NET, y0, TIMES, engine=engine, **change) for engine in ("torch", "julia"))
        np.testing.assert_allclose(theirs.ys, ours.ys, rtol=0, atol=1e-12)
        assert (theirs.nfev, theirs.accepted, theirs.rejected) == (ours.nfev, ours.accepted, ours.rejected)
    for ts in (TIMES, TIMES[:5], -TIMES):
        np.testing.assert_allclose(
            *(pn.solve(NET, y0[0], ts, engine=e).ys for e in ("julia", "torch")), rtol=0, atol=1e-12
        )


def test_julia_frees_the_oldest_of_many_problems(julia, monkeypatch):
    julia_here = session.running()
    monkeypatch.setattr(transfer, "_MAX_PREPARED", 2)
    julia_here.prepared.clear()
    model = pn.NeuralODE(NET, engine="julia")
    y0 = torch.ones(2, dtype=torch.float64)
    early = model(y0, [0.0, 1.0])
    for end in (1.5, 2.0, 2.5):
        model(y0, [0.0, end])
    assert len(julia_here.prepared) == 2
    early.sum().backward()  # the problem has been freed, but the solve has not
    reference = pn.NeuralODE(NET, engine="torch")
    reference(y0, [0.0, 1.0]).sum().backward()
    torch.testing.assert_close(model.weights["weight_1"].grad, reference.weights["weight_1"].grad)


def test_a_gradient_may_be_taken_twice_and_what_julia_keeps_is_freed(julia):
    from juliacall import Main

    model = pn.NeuralODE(NET, engine="julia")
    ys = model(torch.ones(2, dtype=torch.float64), TIMES)
    first = torch.autograd.grad(ys.sum(), list(model.parameters()), retain_graph=True)
    second = torch.autograd.grad(ys.sum(), list(model.parameters()))
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    del ys
    for _ in range(3):
        model(torch.ones(2, dtype=torch.float64), TIMES)
    assert Main.seval("count(object -> object isa PyNeuralODE.PreparedSolve, values(PyNeuralODE.HANDLES))") <= 2
    with pytest.raises(pn.ArgumentError, match="cannot be differentiated again"):
        ys = model(torch.ones(2, dtype=torch.float64), TIMES)
        torch.autograd.grad(ys.sum(), list(model.parameters()), create_graph=True)


def test_check_gradient_has_every_method_of_julia(julia, capsys):
    check = pn.NeuralODE(NET, engine="julia", rtol=1e-8, atol=1e-8).check_gradient([1.0, 0.5], TIMES)
    assert [row.method for row in check.rows] == gradients_of("julia")
    assert all(row.error < 1e-6 for row in check.rows)


# Fits


def decay(engine, **settings):
    ts = np.linspace(0, 2, 21)
    truth = pn.solve(
        pn.Linear(((-0.5, 1.0), (-1.0, -0.3))), np.array([1.0, 0.0]), ts, engine="torch", rtol=1e-9, atol=1e-9
    )
    model = pn.NeuralODE(pn.Linear(((0.0, 0.5), (-0.5, 0.0))), engine=engine, rtol=1e-8, atol=1e-8)
    return pn.fit(model, ts, truth.ys, y0=np.array([1.0, 0.0]), **settings)


@pytest.mark.parametrize(
    "optimizer", [pn.Adam(0.05, schedule="cosine"), pn.AdamW(0.05), pn.RMSprop(0.01), pn.SGD(1e-3, momentum=0.5)]
)
def test_a_fit_in_julia_takes_the_same_steps(julia, optimizer):
    ours, theirs = (decay(engine, plan=pn.Stage(optimizer, 30)) for engine in ("torch", "julia"))
    np.testing.assert_allclose(theirs.losses, ours.losses, rtol=1e-6)
    np.testing.assert_allclose(theirs.parameters["A"], ours.parameters["A"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(theirs.model.arrays()["A"], theirs.parameters["A"])
    assert theirs.finished and theirs.message == ours.message and theirs.evaluations == ours.evaluations


def test_lbfgs_growing_spans_masks_weights_penalties_and_bounds_in_julia(julia):
    plan = pn.GrowingSpan([0.7, 1.4], pn.Adam(0.05), 20, finish=[pn.Stage(pn.LBFGS(), 60, end=2.0)])
    settings = {
        "plan": plan,
        "weights": np.linspace(1, 2, 21),
        "mask": np.arange(21) % 5 != 3,
        "penalty": TotalVariation(1e-6),
        "reduction": "mean",
    }
    ours, theirs = (decay(engine, **settings) for engine in ("torch", "julia"))
    assert theirs.loss < 1e-8 and [s.end for s in theirs.stages] == [0.7, 1.4, 2.0]
    np.testing.assert_allclose(theirs.stages[1].losses, ours.stages[1].losses, rtol=1e-5)
    np.testing.assert_allclose(theirs.parameters["A"], ours.parameters["A"], atol=1e-3)


@pytest.mark.parametrize("observable", ["infectious", "incidence"])
def test_the_seir_fit_runs_whole_in_julia(julia, observable):
    days = np.arange(0.0, 100, 5)
    truth = pn.solve(
        pn.SEIR(0.2, 3.0, 0.4),
        np.array([1 - 5e-4, 4e-4, 1e-4, 0.0]),
        np.r_[days],
        engine="torch",
        rtol=1e-9,
        atol=1e-12,
    ).ys
    values = truth[:, 2] if observable == "infectious" else 2.0 * 0.4 * truth[:, 1]
    told = []
    fits = [
        fit_seir(
            days,
            values,
            i0=1e-4,
            e0=4e-4,
            observable=observable,
            engine=engine,
            factor=1.5,
            callback=lambda stage, k, loss: told.append(k),
        )
        for engine in ("torch", "julia")
    ]
    assert fits[1].result.loss < 1e-12 and told.count(0) == 2
    assert float(fits[1].result.parameters["R0"]) == pytest.approx(3.0, rel=1e-3)
    np.testing.assert_allclose(fits[1].curve(days), values, atol=1e-6)


def test_a_fit_with_own_python_pieces_takes_each_gradient_from_julia(julia):
    result = decay("julia", plan=pn.Stage(pn.Adam(0.05), 10), penalty=lambda ts, ys, p: 1e-6 * p["A"].square().sum())
    reference = decay("torch", plan=pn.Stage(pn.Adam(0.05), 10), penalty=lambda ts, ys, p: 1e-6 * p["A"].square().sum())
    np.testing.assert_allclose(result.losses, reference.losses, rtol=1e-7)


def test_an_exception_in_a_callback_comes_out(julia):
    def callback(stage, iteration, loss):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        decay("julia", callback=callback)


INTERRUPTED = """
    import os, signal, threading, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import numpy as np, pyneuralode as pn
    if __name__ == "__main__":
        pn.start_julia({process!r})
        ts = np.linspace(0, 5, 50)
        model = pn.NeuralODE(pn.MLP((2, 20, 2), init_bias=0.3), engine="julia")
        data = np.stack([np.cos(ts), np.sin(ts)], 1)
        pn.fit(model, ts, data, y0=data[0], plan=pn.Stage(pn.Adam(1e-3), 5))
        before = pn.fit(model, ts, data, y0=data[0], plan=pn.Stage(pn.Adam(1e-3), 1)).loss

        def press(stage, iteration, loss):  # Ctrl-C, once the fit has got somewhere
            if iteration == 200:
                threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()

        result = pn.fit(model, ts, data, y0=data[0], plan=pn.Stage(pn.Adam(1e-3), 10**9), callback=press)
        print(result.interrupted, result.finished, result.loss < before, result.message)
        print(pn.solve(pn.SEIR(), np.array([0.9, 0.05, 0.05, 0.0]), [0, 1], engine="julia").engine)
"""


@pytest.mark.parametrize("process", ["inside", "worker"])
def test_ctrl_c_returns_the_best_so_far(julia, process):
    run = python(INTERRUPTED.format(process=process))
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first.startswith("True False True interrupted in stage 1 of 1, iteration") and second == "julia (fast)"


def test_the_worker_process_gives_the_same_numbers_without_julia_here(julia):
    run = python(
        """
        import sys
        import numpy as np, torch, pyneuralode as pn
        pn.start_julia("worker")
        model = pn.NeuralODE(pn.MLP((2, 6, 2), init_bias=0.3), engine="julia")
        y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        model(y0, np.linspace(0, 2, 9)).square().sum().backward()
        print(float(y0.grad.sum()), "juliacall" in sys.modules)
        try:
            pn.solve(pn.Linear(((1.0,),), input_map="square"), np.ones(1), [0, 2], engine="julia")
        except pn.SolverError as error:
            print(error.t)
        try:
            pn.start_julia("inside")
        except pn.ArgumentError as error:
            print(error)
        """
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    model = pn.NeuralODE(NET, engine="julia")
    y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    model(y0, TIMES).square().sum().backward()
    assert lines[0].split() == [str(float(y0.grad.sum())), "False"]
    assert float(lines[1]) == pytest.approx(1.0, rel=1e-3)
    assert "already running as 'worker'" in lines[2]


def test_julia_runs_in_any_thread(julia):
    run = python(
        """
        import threading
        import numpy as np, torch, pyneuralode as pn
        pn.start_julia("inside")
        from pyneuralode.engines.julia_engine.session import with_julia
        model = pn.NeuralODE(pn.MLP((2, 6, 2), init_bias=0.3), engine="julia")
        def work():
            for _ in range(3):
                model(torch.ones(2, dtype=torch.float64), np.linspace(0, 2, 9)).sum().backward()
                with_julia(lambda Main: Main.seval("GC.gc()"))  # which waits for every thread that runs Julia code
        for _ in range(2):
            threads = [threading.Thread(target=work) for _ in range(2)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            work()
        print(float(model.weights["weight_1"].grad.sum()))
        """
    )
    assert run.returncode == 0, run.stderr
    model = pn.NeuralODE(NET, engine="torch")
    model(torch.ones(2, dtype=torch.float64), TIMES).sum().backward()
    assert float(run.stdout) == pytest.approx(18 * float(model.weights["weight_1"].grad.sum()), rel=1e-9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_told_that_julia_cannot_run_in_it(julia):
    run = python(
        """
        import os
        import numpy as np, pyneuralode as pn
        pn.start_julia("inside")
        child = os.fork()
        if child == 0:
            try:
                pn.solve(pn.SEIR(), np.ones(4), [0, 1], engine="julia")
            except pn.EngineError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    assert "cannot run in a fork" in run.stdout


# Device memory, simulated by CPU memory behind a separate array type, since the tests need no GPU.

ELSEWHERE = """
    abstract type Elsewhere{T} end
    Elsewhere(x::AbstractArray) = Array(x)
    Base.similar(::Type{Elsewhere{T}}, dims::Dims) where {T} = Array{T}(undef, dims)
    Base.similar(::Type{Elsewhere{T}}, dims::Integer...) where {T} = Array{T}(undef, dims)
    PyNeuralODE.wrap(::Type{Elsewhere}, ::Type{T}, address::Integer, dims) where {T} = PyNeuralODE.wrap(Array, T, address, dims)
    const WAITS = Ref(0)
    PyNeuralODE.synchronize(::Type{Elsewhere}) = (WAITS[] += 1; nothing)
    PyNeuralODE.PLACES["elsewhere"] = Elsewhere
"""


@pytest.fixture
def elsewhere(julia, monkeypatch):
    """Make torch tensors appear to be on the simulated device "elsewhere"."""
    from juliacall import Main

    if not Main.seval('haskey(PyNeuralODE.PLACES, "elsewhere")'):
        Main.seval(f"begin {ELSEWHERE} end")
    monkeypatch.setattr(transfer, "place_of", lambda y0: ("elsewhere", 0))
    return Main


@pytest.mark.parametrize("gradient", ["InterpolatingAdjoint", "GaussAdjoint", "BacksolveAdjoint"])
def test_tensors_on_a_device_are_passed_by_address(elsewhere, gradient):
    found = []
    for engine in ("torch", "julia"):
        layer = pn.NeuralODE(
            NET, engine=engine, gradient="InterpolatingAdjoint" if engine == "torch" else gradient, rtol=1e-9, atol=1e-9
        )
        y0 = torch.tensor([[[1.0, 0.5]], [[0.2, -0.3]], [[0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
        states = layer(y0, TIMES)
        states.square().sum().backward()
        found.append([states.detach(), y0.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-7)
    assert elsewhere.seval("WAITS[]") >= 4
    with torch.no_grad():
        torch.testing.assert_close(layer.solve(y0, TIMES).ys, found[0][0], rtol=1e-6, atol=1e-8)


def test_what_a_device_does_not_have_is_said_in_one_sentence(elsewhere, monkeypatch):
    y0 = torch.ones(3, 2, requires_grad=True)
    for settings, sentence in (
        ({}, "write gradient='InterpolatingAdjoint'"),
        ({"gradient": "InterpolatingAdjoint", "solver": "Rodas5P"}, "explicit solver"),
    ):
        with pytest.raises(pn.ArgumentError, match=sentence):
            pn.solve(NET, y0, TIMES, engine="julia", rtol=1e-4, **settings)
    with pytest.raises(pn.ArgumentError, match="only on the CPU"):
        field = pn.Equations({"x": "-x"})
        pn.solve(field, torch.ones(1), TIMES, engine="julia", rtol=1e-4)
    if not elsewhere.seval('haskey(PyNeuralODE.PLACES, "cuda")'):
        monkeypatch.setattr(transfer, "place_of", lambda y0: ("cuda", 0))
        with pytest.raises(pn.ArgumentError, match=r"Pkg.add\("):
            pn.solve(NET, y0, TIMES, engine="julia", rtol=1e-4, gradient="InterpolatingAdjoint")


def test_the_worker_process_cannot_reach_a_device(monkeypatch):
    problem = SimpleNamespace(dense=False)
    monkeypatch.setattr(session, "running", lambda: None)
    with pytest.raises(pn.ArgumentError, match="y0 is on cuda:0, whose memory"):
        transfer.choose_transfer(problem, TIMES, torch.device("cuda:0"))
    problem.dense = True
    with pytest.raises(pn.ArgumentError, match="dense is True"):
        transfer.choose_transfer(problem, TIMES, torch.device("cuda:0"))


# A layer of a torch model


def test_a_block_that_julia_solves_is_a_layer_that_trains(julia):
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    y = (x[:, :1] * x[:, 1:2] > 0).float()
    layer = pn.ODEBlock(pn.MLP((4, 16, 4), init_bias=0.3), engine="julia", rtol=1e-4, atol=1e-4)
    net = torch.nn.Sequential(torch.nn.Linear(5, 4), layer, torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0] and all(p.grad is not None for p in net.parameters())
    assert layer(torch.zeros(3, 4)).shape == (3, 4)
