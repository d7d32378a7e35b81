import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pyneuralode.cli import app
from pyneuralode.errors import ArgumentError
from pyneuralode.fields import GatedMLP, HyperMLP
from pyneuralode.fitting.schedules import OneCycle
from pyneuralode.flows import ContinuousFlow
from pyneuralode.flows.initialization import spread_units
from pyneuralode.flows.plots import density_frames, grid_points, log_density_at
from pyneuralode.plotting.flows import flow_animation
from pyneuralode.progress import SilentProgress
from pyneuralode.reports import flag_table, flow_compare
from pyneuralode.reports.base import Findings, Row
from pyneuralode.reports.flag import integral, round_trip
from pyneuralode.reports.flag_training import FLAG, NETS, OURS, THEIRS, as_torch_draws, train_flag
from pyneuralode.reports.parallel import Job, run_jobs


def silent(n=1, note=""):
    pass


def test_the_nets_are_those_of_table_1():
    assert len(NETS) == 16 and sum(isinstance(net.field, HyperMLP) for net in NETS) == 9
    theirs = {net.name: net.theirs for net in NETS}
    assert theirs["hypernet H 16, w 64"] == min(theirs.values()) == 1.2086
    assert theirs["2-layer FC, hidden 5"] == max(theirs.values()) == 2.7974
    sizes = {net.name: sum(math.prod(s) for s in net.field.shapes().values()) for net in NETS}
    # 1 -> 16 -> 16 -> 3*2*64 + 64; 2 -> 5 -> 2 with the time as an additional input of both layers.
    assert sizes["hypernet H 16, w 64"] == 32 + 272 + 17 * 448
    assert sizes["2-layer concat, hidden 5"] == 5 * 3 + 5 + 2 * 6 + 2
    gated = next(net.field for net in NETS if isinstance(net.field, GatedMLP))
    assert gated.sizes == (2, 64, 128, 128, 64, 2)


def test_torchs_draws_have_torchs_bounds():
    drawn = as_torch_draws(HyperMLP(2, 64, 16), 0)
    for name, bound in (
        ("weight_1", 1),
        ("bias_1", 1),
        ("weight_2", 0.25),
        ("bias_2", 0.25),
        ("bias_3", 0.25),
    ):
        assert 0.7 * bound < np.abs(drawn[name]).max() <= bound


def test_spread_units_bend_all_over_the_picture():
    field = HyperMLP(2, 512, 16)
    flow = ContinuousFlow(field, engine="torch")
    flow.set_arrays(spread_units(field, 3))
    biases = flow.arrays()["bias_3"][3 * 2 * 512 :]
    assert biases.min() < -1.9 and biases.max() > 1.9 and abs(biases.mean()) < 0.2
    assert np.array_equal(spread_units(field, 3)["bias_3"], spread_units(field, 3)["bias_3"])


def test_one_cycle_rises_and_falls():
    rates = [OneCycle(0.5, 200)(k) for k in range(200)]
    assert max(rates) == pytest.approx(0.5) and np.argmax(rates) in (19, 20)
    assert rates[0] == pytest.approx(0.025) and rates[-1] == pytest.approx(0, abs=1e-12)
    assert (np.diff(rates[20:]) < 0).all()


def test_training_on_the_flag_reaches_below_half_of_the_way_in_150_updates():
    trained = train_flag(HyperMLP(2, 32, 16), replace(OURS, updates=150), 0, "torch", silent, fresh=4000)
    assert trained.gap < 0.25  # for a standard normal, the gap is 1.6
    # The mean loss of these points under the flag's own density is 1.1588, with a standard error of 0.005.
    assert trained.fresh - trained.gap == pytest.approx(FLAG.entropy, abs=0.02)
    assert trained.fit.flow is None and len(trained.fit.losses) == 150
    flow = trained.flow()
    assert integral(flow, 150) == pytest.approx(1, abs=5e-3)
    assert round_trip(flow) < 1e-3


def test_the_reports_set_up_is_the_reports():
    assert (THEIRS.times, THEIRS.solver, THEIRS.tolerance) == ((0.0, 10.0), "DP5", 1e-5)
    assert (THEIRS.updates, THEIRS.batch, THEIRS.rate) == (OURS.updates, OURS.batch, 1e-3) == (1000, 512, 1e-3)
    assert THEIRS.learning_rate(0) == THEIRS.learning_rate(999) == 1e-3
    assert THEIRS.field(NETS[0].field) == NETS[0].field


def test_a_film_goes_from_the_base_to_the_data():
    field = HyperMLP(2, 8, 4, output_scale=4.0)
    flow = ContinuousFlow(field, engine="torch")
    flow.set_arrays(spread_units(field, 0))
    extent = (-4.0, 4.0, -2.0, 2.0)
    times, densities, samples = density_frames(flow, 3, extent, pixels=41, samples=30)
    assert times.tolist() == [0.0, 0.5, 1.0] and densities.shape == (3, 21, 41) and samples.shape == (3, 30, 2)
    assert densities[0].max() == pytest.approx(1 / (2 * math.pi), rel=1e-5)
    grid = grid_points(extent, 41)
    np.testing.assert_allclose(densities[2], np.exp(log_density_at(flow, grid)), rtol=1e-4)
    # At half time, the log density of a transformed base point is the base's minus the integral of the trace.
    half = ContinuousFlow(field, times=(0.0, 0.5), engine="torch")
    half.set_arrays(flow.arrays())
    x, logs = half.sample_and_log_prob(5, seed=1)
    np.testing.assert_allclose(log_density_at(flow, x.detach().numpy(), 0.5), logs.detach().numpy(), atol=1e-3)


def test_animations_are_written_as_gif(tmp_path):
    frames = np.random.default_rng(0).random((3, 8, 8))
    animation = flow_animation([0, 0.5, 1], frames, np.zeros((3, 5, 2)), (-1, 1, -1, 1))
    animation.save(tmp_path / "a.gif", writer="pillow")
    from PIL import Image

    with Image.open(tmp_path / "a.gif") as image:
        durations = [image.info["duration"] for k in range(image.n_frames) if image.seek(k) is None]
        assert sum(durations) == 400  # frames of 0.1 s, with a pause at the end
    with pytest.raises(ArgumentError, match="a/b"):
        Findings([Row("a", 1.0)], animations={"a/b": animation})


@pytest.mark.parametrize("name", flow_compare.DENSITIES)
def test_the_given_densities_have_a_finite_integral(name):
    log_density = flow_compare.DENSITIES[name]
    constant = flow_compare.log_constant(log_density, 8, 400)
    assert constant == pytest.approx(flow_compare.log_constant(log_density, 10, 900), abs=1e-4)
    x = torch.tensor([[0.0, 300.0], [300.0, 0.0], [-300.0, -300.0]], requires_grad=True)
    (slopes,) = torch.autograd.grad(log_density(x).sum(), x)
    assert torch.isfinite(slopes).all() and (log_density(x) < -1000).all()


def test_the_integral_of_a_normal_is_known():
    assert flow_compare.log_constant(lambda z: -0.5 * z.square().sum(-1)) == pytest.approx(
        math.log(2 * math.pi), abs=1e-9
    )


def test_divergences_are_those_of_the_trained_flows():
    """After 200 updates, the continuous flow is close to the two moons; both divergences are positive."""
    cnf = flow_compare.compare("two moons", "cnf", 8, 200, 0, "torch", 30, silent, samples=5000)
    planar = flow_compare.compare("two moons", "planar", 8, 200, 0, "torch", 30, silent, samples=5000)
    assert -3 * cnf.error < cnf.divergence < 0.8 and -3 * planar.error < planar.divergence < 1.5
    cell = (10 / 29) ** 2
    assert np.exp(cnf.log_density).sum() * cell == pytest.approx(1, abs=0.05)


def test_jobs_run_in_an_executor_of_the_callers():
    jobs = [Job(f"job {k}", _square, (k,), 1) for k in range(5)]
    with ThreadPoolExecutor(2) as pool:
        assert run_jobs(jobs, 1, SilentProgress(), pool) == [0, 1, 4, 9, 16]
        with pytest.raises(ZeroDivisionError):
            run_jobs([Job("bad", _fail, (), 1), *jobs], 1, SilentProgress(), pool)


def _square(k, advance):
    advance(1, "note")
    return k * k


def _fail(advance):
    raise ZeroDivisionError


def test_the_longest_jobs_start_first():
    started = []

    class Recording(ThreadPoolExecutor):
        def submit(self, work, k, **options):
            started.append(k)
            return super().submit(work, k, **options)

    jobs = [Job(f"job {k}", _square, (k,), 1, cost) for k, cost in enumerate((1.0, 3.0, 0.0, 2.0))]
    with Recording(2) as pool:
        assert run_jobs(jobs, 1, SilentProgress(), pool) == [0, 1, 4, 9]
    assert started == [1, 3, 0, 2]


def test_the_cost_of_a_net_on_the_flag_grows_with_its_size():
    cost = {net.name: flag_table._cost(net.field, OURS) for net in NETS}
    assert cost["5-layer FC 64-128-128-64"] > cost["4-layer concat 32-64-32"] > cost["2-layer FC, hidden 5"]


def test_fit_density_writes_the_flow_its_picture_and_a_film(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("PYNEURALODE_ENGINE", "torch")
    gray = np.full((24, 32), 255, dtype=np.uint8)
    gray[6:18, 8:24] = 0
    Image.fromarray(gray).save(tmp_path / "box.png")
    out = tmp_path / "out"
    options = ["--updates", "30", "--width", "8", "--hidden", "4", "--frames", "2"]
    done = CliRunner().invoke(app, ["fit-density", str(tmp_path / "box.png"), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    assert "the divergence is" in done.output
    assert sorted(p.name for p in out.iterdir()) == [
        "density.png",
        "flow.gif",
        "flow.safetensors",
        "metrics.json",
    ]


def test_fit_density_answers_mistakes_in_a_sentence(tmp_path):
    from PIL import Image

    Image.new("L", (20, 20), 9).save(tmp_path / "flat.png")
    for arguments, words in (
        (["flat.png"], "has no contrast"),
        (["absent.png"], "cannot be read"),
        (["flat.png", "--frames", "1"], "frames is 1"),
    ):
        path, *rest = arguments
        done = CliRunner().invoke(app, ["fit-density", str(tmp_path / path), "--out", str(tmp_path / "o"), *rest])
        assert done.exit_code == 2 and words in done.output, done.output
    assert not (tmp_path / "o").exists()


def test_the_page_shows_animations(tmp_path, monkeypatch):
    import sys
    import types

    from pyneuralode.reports import registry
    from pyneuralode.reports.runner import run_reports

    def run(context):
        frames = np.ones((2, 4, 4))
        moving = flow_animation([0, 1], frames, np.zeros((2, 3, 2)), (-1, 1, -1, 1))
        return Findings([Row("a", 1.0)], animations={"moving": moving}, captions={"moving": "It moves & rests."})

    monkeypatch.setitem(sys.modules, "fake_moving", types.SimpleNamespace(run=run))
    monkeypatch.setitem(registry.REPORTS, "m", registry.Report("m", "M", "nowhere", "fake_moving"))
    page = run_reports(["m"], tmp_path, engine="torch").page.read_text(encoding="utf-8")
    assert '<img src="m/moving.gif" alt="It moves &amp; rests.">' in page
    assert (tmp_path / "m" / "moving.gif").read_bytes().startswith(b"GIF89a")
