"""`batch="independent"`: each sample gives the same result as a separate solve, forward and backward, with its own
times."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.solvers import SOLVERS, solvers_of

torch.set_num_threads(1)

EXPLICIT = [name for name in solvers_of("torch") if SOLVERS[name].kind == "explicit"]
ADAPTIVE = [name for name in EXPLICIT if SOLVERS[name].adaptive]
GRADIENTS = ["Backprop", "Checkpointed", pn.Checkpointed(every=5)]
ROUNDING = {"rtol": 0, "atol": 1e-11}

# A driven pendulum; the samples differ in stiffness and therefore in step size.
MU = torch.tensor([0.1, 4.0, 1.0, 30.0, 0.5], dtype=torch.float64)
Y0 = torch.tensor([[2.0, 0.0], [1.0, 1.0], [-0.5, 2.0], [2.0, -1.0], [0.1, 0.1]], dtype=torch.float64)
PENDULUM = pn.Equations({"x": "v", "v": "sin(t) - mu*sin(x) - 0.1*v"}, parameters={"mu": 1.0})


def swing(t, y, mu=MU):
    """Return the slope for samples (B, 2) at times (B, 1), or for one sample (2,) at a time () with its mu."""
    x, v = y.unbind(-1)
    return torch.stack([v, torch.sin(t.view(x.shape)) - mu * torch.sin(x) - 0.1 * v], dim=-1)


def alone(b, ts, **settings):
    return pn.solve(lambda t, y: swing(t, y, MU[b]), Y0[b], ts, **settings)


def control_of(solver):
    return {"rtol": 1e-5, "atol": 1e-5, "first_step": 0.5} if SOLVERS[solver].adaptive else {"step_size": 0.03}


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("solver", EXPLICIT)
def test_every_sample_takes_the_steps_that_it_takes_alone(solver, backwards):
    ts = torch.linspace(0, 2, 5, dtype=torch.float64)
    if backwards:
        ts = ts.flip(0)
    settings = {"solver": solver, **control_of(solver)}
    together = pn.solve(swing, Y0, ts, batch="independent", **settings)
    assert together.ys.shape == (5, 5, 2) and together.ts is ts
    for b in range(len(Y0)):
        one = alone(b, ts, **settings)
        assert (together.accepted[b], together.rejected[b]) == (one.accepted, one.rejected)
        assert together.nfev[b] == one.nfev
        torch.testing.assert_close(together.ys[:, b], one.ys, **ROUNDING)
    if SOLVERS[solver].adaptive:
        assert len(set(together.accepted.tolist())) > 2 and together.rejected.sum() > 0
    assert together.message == ["reached the last time"] * 5


def test_joint_stays_the_default_and_takes_one_step_size_for_all():
    rates = torch.tensor([[1.0], [30.0]], dtype=torch.float64)
    joint, independent = (
        pn.solve(lambda t, y: -rates * y, np.ones((2, 1)), [0.0, 2.0], **settings)
        for settings in ({}, {"batch": "independent"})
    )
    assert isinstance(joint.accepted, int)
    assert independent.accepted[0] < joint.accepted / 2 < independent.accepted[1]


# Times.

ROWS = [[0.0, 0.5, 2.0], [1.0, 0.2, 0.0], [0.3, 0.4, 0.5], [-1.0, 0.0, 0.1], [5.0, 5.1, 6.0]]
RAGGED = [np.array(row) for row in ([0.0, 0.5], [1.0, 0.2, 0.0], [0.3, 0.4, 0.5, 0.9], [-1.0, 0.0, 0.1], [5.0, 5.6])]


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "DP8", "RK4"])
def test_times_of_their_own(solver):
    settings = {"solver": solver, **control_of(solver)}
    ts = torch.tensor(ROWS, dtype=torch.float64)
    together = pn.solve(swing, Y0, ts, batch="independent", **settings)
    assert together.ys.shape == (5, 3, 2)
    for b in range(5):
        torch.testing.assert_close(together.ys[b], alone(b, ts[b], **settings).ys, **ROUNDING)


@pytest.mark.parametrize("solver", ["BS3", "RK4"])
def test_ragged_times(solver):
    settings = {"solver": solver, **control_of(solver)}
    together = pn.solve(swing, Y0, RAGGED, batch="independent", **settings)
    assert isinstance(together.ys, list) and [len(row) for row in together.ts] == [2, 3, 4, 3, 2]
    for b in range(5):
        assert together.ys[b].shape == (len(RAGGED[b]), 2)
        torch.testing.assert_close(together.ys[b], alone(b, RAGGED[b], **settings).ys, **ROUNDING)


def test_what_numpy_gives_numpy_gets():
    together = pn.solve(swing, Y0.numpy(), np.array(ROWS), batch="independent")
    assert isinstance(together.ys, np.ndarray) and isinstance(together.ts, np.ndarray)
    ragged = pn.solve(swing, Y0.numpy(), RAGGED, batch="independent")
    assert all(isinstance(row, np.ndarray) for row in ragged.ys)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_samples_of_any_shape(shape):
    """The time passed to the field has the same number of axes as the state, so the two can be broadcast."""
    y0 = torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    seen = set()

    def slope(t, y):
        seen.add((tuple(t.shape), tuple(y.shape)))
        return -2 * t * y

    ts = torch.tensor([[0.0, 1.0], [0.0, 0.3], [0.5, 1.0], [1.0, 0.0]], dtype=torch.float64)
    ys = pn.solve(slope, y0, ts, batch="independent", rtol=1e-9, atol=1e-9).ys
    factor = torch.exp(ts[:, 0] ** 2 - ts[:, 1] ** 2).view(4, *[1] * len(shape))
    torch.testing.assert_close(ys[:, 1], y0 * factor, rtol=1e-8, atol=0)
    assert seen == {((4, *[1] * len(shape)), (4, *shape))}


def test_single_precision():
    ys = pn.solve(lambda t, y: -t * y, Y0.float(), ROWS, batch="independent", rtol=1e-5, atol=1e-6).ys
    assert ys[0].dtype == torch.float32
    exact = pn.solve(lambda t, y: -t * y, Y0, ROWS, batch="independent", rtol=1e-10, atol=1e-10).ys
    for row, truth in zip(ys, exact):
        torch.testing.assert_close(row.double(), truth, rtol=1e-4, atol=1e-4)


# Fields with a description (`VectorField`).

FIELDS = {
    "MLP": pn.MLP((2, 6, 2), "tanh", init_bias=0.3),
    "Linear": pn.Linear(((0.1, 2.0), (-1.0, -0.2))),
    "Equations": PENDULUM,
    "SEIR": pn.SEIR(),
    "HyperMLP": pn.HyperMLP(2, 5, 4),
    "ConcatMLP": pn.ConcatMLP((2, 6, 6, 2), init_bias=0.2),
    "GatedMLP": pn.GatedMLP((2, 6, 2)),
    "ConcatConv": pn.ConcatConv(1, 4, 4, (2,)),
}


def start_of(field, samples=4):
    y0 = torch.rand(samples, field.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return y0 / y0.sum(1, keepdim=True) if isinstance(field, pn.SEIR) else y0


@pytest.mark.parametrize("name", FIELDS)
def test_described_fields(name):
    field = FIELDS[name]
    y0 = start_of(field)
    ts = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.1, 0.2], [2.0, 1.0, 0.5], [0.0, 0.1, 5.0]], dtype=torch.float64)
    together = pn.solve(field, y0, ts, batch="independent", compiled=False)
    for b in range(4):
        one = pn.solve(field, y0[b], ts[b], compiled=False)
        torch.testing.assert_close(together.ys[b], one.ys, rtol=0, atol=1e-9)
        assert (together.nfev[b], together.accepted[b]) == (one.nfev, one.accepted)


@pytest.mark.parametrize("name", FIELDS)
def test_described_fields_for_blocks_of_states(name):
    field = FIELDS[name]
    y0 = start_of(field, 6)
    together = pn.solve(field, y0.view(2, 3, field.dim), [0.0, 1.0], batch="independent", compiled=False)
    for b in range(2):
        one = pn.solve(field, y0[3 * b : 3 * b + 3], [0.0, 1.0], compiled=False)
        torch.testing.assert_close(together.ys[:, b], one.ys, **ROUNDING)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
@pytest.mark.parametrize("name", FIELDS)
def test_parameters_of_their_own(name, gradient):
    """A batch with one parameter for each sample, and shared ones, gives the same results as four separate solves."""
    field = FIELDS[name]
    initial = field.initial(0)
    factors = torch.tensor([1.0, 0.7, 1.3, 0.9], dtype=torch.float64)
    own = next(iter(initial))
    together, apart = ({k: torch.tensor(v) for k, v in initial.items()} for _ in range(2))
    together[own] = apart[own] = factors.view(4, *[1] * together[own].ndim) * together[own]
    for parameters in (together, apart):
        for k, value in parameters.items():
            parameters[k] = value.clone().requires_grad_()
    y0 = start_of(field)
    ts = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.1, 0.2], [2.0, 1.0, 0.5], [0.0, 0.1, 2.0]], dtype=torch.float64)
    settings = {"gradient": gradient, "compiled": False}
    ys = pn.solve(field, y0, ts, batch="independent", parameters=together, **settings).ys
    ones = [
        pn.solve(field, y0[b], ts[b], parameters={**apart, own: apart[own][b]}, **settings).ys for b in range(len(y0))
    ]
    torch.testing.assert_close(ys, torch.stack(ones), rtol=0, atol=1e-9)
    ys.square().sum().backward()
    torch.stack(ones).square().sum().backward()
    for k in together:
        torch.testing.assert_close(together[k].grad, apart[k].grad, rtol=1e-7, atol=1e-8)


def test_the_compiled_path_takes_samples_one_by_one():
    field, y0 = FIELDS["MLP"], start_of(FIELDS["MLP"])
    p = {k: torch.tensor(v, requires_grad=True) for k, v in field.initial(0).items()}
    grads = []
    for compiled in (True, False):
        found = pn.solve(field, y0, RAGGED[:4], parameters=p, batch="independent", compiled=compiled)
        assert found.engine == ("torch (compiled)" if compiled else "torch")
        grads.append(torch.autograd.grad(sum(row.square().sum() for row in found.ys), list(p.values())))
    for compiled, generic in zip(*grads):
        torch.testing.assert_close(compiled, generic, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ts", [[0.0, 1.0], np.array(ROWS), RAGGED], ids=["shared", "rows", "list"])
def test_formulas_run_compiled(ts):
    results = []
    for compiled in (True, False):
        mu = MU.clone().requires_grad_()
        found = pn.solve(PENDULUM, Y0, ts, parameters={"mu": mu}, batch="independent", compiled=compiled)
        assert found.engine == ("torch (compiled)" if compiled else "torch")
        rows = found.ys if isinstance(found.ys, list) else list(found.ys)
        results.append((found.nfev, *rows, torch.autograd.grad(sum(row.square().sum() for row in rows), mu)[0]))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    for compiled, generic in zip(results[0][1:], results[1][1:]):
        torch.testing.assert_close(compiled, generic, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("solver", ["Rodas5P", "KenCarp4", "AutoTsit5(Rosenbrock23)"])
def test_stiff_solvers_take_samples_one_by_one(solver):
    """Formulas, compiled or not, and a callable are solved one sample at a time, with gradients."""
    rates = torch.tensor([1.0, 50.0, 300.0], dtype=torch.float64, requires_grad=True)
    ts = torch.tensor([[0.0, 0.1, 0.3], [0.0, 0.1, 0.2], [0.0, 0.01, 0.05]], dtype=torch.float64)
    follow = pn.Equations({"y": "cos(t) - k*y"}, parameters={"k": 1.0})
    y0 = torch.ones(3, 1, dtype=torch.float64)
    k = rates[:, None]
    exact = (k * ts.cos() + ts.sin()) / (k**2 + 1) + (1 - k / (k**2 + 1)) * torch.exp(-k * ts)
    settings = {"batch": "independent", "solver": solver, "rtol": 1e-4, "atol": 1e-5}
    for compiled in (True, False):
        found = pn.solve(follow, y0, ts, parameters={"k": rates}, compiled=compiled, **settings)
        torch.testing.assert_close(found.ys[..., 0], exact, rtol=0, atol=1e-3)
        (grad,) = torch.autograd.grad(found.ys[:, -1].sum(), rates)
        (expected,) = torch.autograd.grad(exact[:, -1].sum(), rates, retain_graph=True)
        torch.testing.assert_close(grad, expected, rtol=0.02, atol=1e-5)
    settings.pop("batch")
    alone = pn.solve(follow, y0[1], ts[1], parameters={"k": rates[1]}, compiled=False, **settings)
    assert found.accepted[1] == alone.accepted and found.nfev[1] == alone.nfev
    called = pn.solve(lambda t, y: torch.cos(t) - 50 * y, y0, ts[1], batch="independent", **settings)
    torch.testing.assert_close(called.ys[:, 1], alone.ys, rtol=0, atol=1e-10)


# Gradients.


@pytest.mark.parametrize("form", ["shared", "rows", "list"])
@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "RK4"])
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_gradients_are_those_of_each_sample_alone(gradient, solver, form):
    """Gradients with respect to initial states, a parameter per sample, a shared parameter, and times."""
    settings = {"solver": solver, "gradient": gradient, **control_of(solver)}
    weights = torch.rand(5, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def leaves():
        times = {"shared": [[0.0, 0.3, 1.0]], "rows": ROWS, "list": RAGGED}[form]
        ts = [torch.as_tensor(row, dtype=torch.float64).clone().requires_grad_() for row in times]
        k = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        return Y0.clone().requires_grad_(), MU.clone().requires_grad_(), k, *ts

    def loss(rows):
        return sum((row * weight[: len(row)]).sum() for row, weight in zip(rows, weights))

    together, apart = leaves(), leaves()
    y0, mu, k, *ts = together
    given = {"shared": lambda: ts[0], "rows": lambda: torch.stack(ts), "list": lambda: ts}[form]()
    parameters = {"mu": mu, "k": k}
    ys = pn.solve(
        lambda t, y: k * swing(t, y, mu), y0, given, parameters=parameters, batch="independent", **settings
    ).ys
    loss(ys.transpose(0, 1) if form == "shared" else ys).backward()

    y0, mu, k, *ts = apart
    ones = []
    for b in range(5):
        row = ts[0] if form == "shared" else ts[b]
        parameters = {"mu": mu, "k": k}
        ones.append(
            pn.solve(lambda t, y, b=b: k * swing(t, y, mu[b]), y0[b], row, parameters=parameters, **settings).ys
        )
    loss(ones).backward()
    for one, other in zip(together, apart):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-8)


def test_a_rejected_step_that_is_not_finite_leaves_the_gradient_alone():
    """Only stages of a rejected step reach negative values, where the square root has no derivative."""
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [100.0]], dtype=torch.float64)

    def slope(t, y):
        return -k * torch.where(y > 0.5, y, (y - 0.2).sqrt() * 0.3**-0.5 * 0.5)

    found = pn.solve(slope, y0, [0.0, 1.0], parameters={"k": k}, batch="independent", first_step=0.9)
    assert found.rejected.sum() > 0
    found.ys[-1].sum().backward()
    assert bool(torch.isfinite(k.grad))


def test_modules_and_models(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()

    class VectorField(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, y):
            return torch.cos(t) * self.net(y)

    grads = []
    for batch in ("independent", "joint"):
        model = pn.NeuralODE(VectorField(), batch=batch, rtol=1e-9, atol=1e-9)
        loss = model(Y0, [0.0, 0.5, 1.0]).square().sum()
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)

    model = pn.NeuralODE(pn.MLP((2, 4, 2), init_bias=0.1), batch="independent")
    model.save(tmp_path / "model.safetensors")
    assert pn.load(tmp_path / "model.safetensors").batch == "independent"
    later = model.solve(Y0, np.array([0.5, 1.0]), t0=0.0)
    torch.testing.assert_close(later.ys, model(Y0, np.array([0.0, 0.5, 1.0]))[1:])


def test_backprop_can_be_differentiated_twice():
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=torch.float64)
    settings = {"batch": "independent", "parameters": {"k": k}, "rtol": 1e-10, "atol": 1e-10}
    y = pn.solve(lambda t, y: -k * y, y0, [[0.0, 1.0], [0.0, 2.0]], **settings).ys
    (first,) = torch.autograd.grad(y[1][-1].sum(), k, create_graph=True)
    (second,) = torch.autograd.grad(first, k)
    assert second.item() == pytest.approx(4 * np.exp(-1.0), rel=1e-8)


# Error messages name the sample.


def test_errors_name_the_sample():
    with pytest.raises(pn.SolverError, match="sample 2: the step fell to") as caught:
        pn.solve(lambda t, y: y * y, np.array([[0.1], [0.2], [1.0]]), [0.0, 2.0], batch="independent")
    assert caught.value.t == pytest.approx(1, abs=1e-3)
    with pytest.raises(pn.SolverError, match="sample 3: the solve took max_steps = 20"):
        pn.solve(swing, Y0, [0.0, 1.0], batch="independent", max_steps=20)
    with pytest.raises(pn.SolverError, match="sample 1: the field returned a non-finite"):
        pn.solve(lambda t, y: y.log(), np.array([[1.0], [-1.0]]), [0.0, 2.0], batch="independent")
    with pytest.raises(pn.SolverError, match="sample 1: the state is non-finite at t = "):
        pn.solve(lambda t, y: y * y, np.array([[0.1], [9.0]]), np.linspace(0, 9, 9), batch="independent", solver="RK4")
    with pytest.raises(pn.SolverError, match="sample 1: the step fell to"):
        pn.solve(pn.Equations({"x": "x*x"}), np.array([[0.1], [1.0]]), [0.0, 2.0], batch="independent")
    with pytest.raises(pn.SolverError, match="sample 1: the state is non-finite at t = 1.01"):
        times = [[0.0, 0.9], [0.0, 0.95, 1.01]]
        pn.solve(
            pn.Equations({"x": "sqrt(1 - t)"}),
            np.zeros((2, 1)),
            times,
            batch="independent",
            solver="Midpoint",
            step_size=0.2,
        )


CUBE = np.ones((2, 2))
MISTAKES = {
    "unknown batch": (lambda: solve(batch="independant"), "did you mean 'independent'"),
    "unknown batch of a model": (lambda: pn.NeuralODE(PENDULUM, batch="each"), "batch is 'each'"),
    "tuple": (lambda: solve(y0=(CUBE, CUBE)), "y0 is a tuple"),
    "number": (lambda: solve(y0=1.0), "y0 is one number"),
    "rows for other samples": (lambda: solve(ts=np.array(ROWS)), "ts has 5 rows and y0 has 2 samples"),
    "list for other samples": (lambda: solve(ts=RAGGED), "ts has 5 rows and y0 has 2 samples"),
    "unsorted row": (lambda: solve(ts=[[0.0, 1.0], [0.0, 2.0, 1.0]]), "sample 1: ts is not sorted"),
    "repeated time in a row": (lambda: solve(ts=np.array([[0.0, 1.0], [1.0, 1.0]])), "sample 1: ts contains the time 1"),
    "row of one time": (lambda: solve(ts=[[0.0, 1.0], [0.0]]), "sample 1: ts has shape"),
    "empty row": (lambda: solve(ts=[[0.0, 1.0], []]), "sample 1: ts is empty"),
    "rows without the mode": (lambda: solve(ts=np.array(ROWS[:2]), batch="joint"), "ts has two axes"),
    "dense": (lambda: solve(dense=True), "dense is True"),
    "gradient": (lambda: solve(gradient="BacksolveAdjoint"), "use 'Backprop' or 'Checkpointed'"),
    "tolerance": (lambda: solve(atol=np.ones(3)), r"atol has shape \(3,\)"),
    "field of another dimension": (lambda: solve(PENDULUM, np.ones((2, 3))), r"give y0 of shape \(2, 2\)"),
    "parameter": (lambda: solve(PENDULUM, parameters={"mu": np.ones(3)}), r"use shape \(\), or \(2,\)"),
    "slope of another shape": (lambda: solve(lambda t, y: y[:1]), r"returned shape \(1, 2\)"),
    "slope that cannot be": (lambda: solve(lambda t, y: y @ y.new_ones(3, 3)), "cannot be evaluated at y of shape"),
    "t0": (lambda: pn.NeuralODE(PENDULUM, batch="independent").solve(CUBE, np.array(ROWS[:2]), t0=-2.0), "t0 is -2.0"),
}  # fmt: skip


def solve(f=lambda t, y: -y, y0=CUBE, ts=(0.0, 1.0), batch="independent", **settings):
    return pn.solve(f, y0, ts, batch=batch, **settings)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered_by_one_sentence(mistake):
    call, answer = MISTAKES[mistake]
    with pytest.raises(pn.ArgumentError, match=answer):
        call()


def test_tolerances_per_component_and_sample():
    whole = np.full((5, 2), 1e-6)
    whole[3] = 1e-9
    plain = pn.solve(swing, Y0, [0.0, 1.0], batch="independent", rtol=1e-6, atol=whole)
    for b in (0, 3):
        one = alone(b, [0.0, 1.0], rtol=1e-6, atol=whole[b])
        torch.testing.assert_close(plain.ys[:, b], one.ys, **ROUNDING)
    each = pn.solve(swing, Y0, [0.0, 1.0], batch="independent", atol=np.array([1e-6, 1e-8]))
    torch.testing.assert_close(each.ys[:, 1], alone(1, [0.0, 1.0], atol=np.array([1e-6, 1e-8])).ys, **ROUNDING)


def test_what_a_field_tells_stiff_solvers_is_heard():
    class Decay(torch.nn.Module):
        calls = 0

        def forward(self, t, y):
            return -50.0 * (y - torch.cos(t))

        def jacobian(self, t, y):
            self.calls += 1
            return -50.0 * torch.eye(y.numel(), dtype=y.dtype).view(*y.shape, *y.shape)

    field, y0 = Decay(), torch.tensor([[1.0, 0.0], [0.5, 0.2]], dtype=torch.float64)
    ys = pn.solve(field, y0, [0.0, 1.0], solver="Rodas5P", batch="independent", engine="torch").ys
    assert field.calls > 0
    alone = pn.solve(field, y0[1], [0.0, 1.0], solver="Rodas5P", engine="torch").ys
    assert torch.allclose(ys[-1, 1], alone[-1], atol=1e-5)
