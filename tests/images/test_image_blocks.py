"""Blocks of image models against hand-written loops, finite differences, and other ways to compute the same."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pyneuralode import MLP, ConcatConv, SolverError
from pyneuralode.engines.torch_engine.memory import PeakMemory
from pyneuralode.errors import ArgumentError
from pyneuralode.images import ConvDynamics, ODEBlock, ResidualBlock, classifier
from pyneuralode.images.blocks import TimeBatchNorm2d, TimeConv2d

CPU = {"engine": "torch"}


class Smooth(nn.Module):
    """The tanh of a convolution of image and time; it is smooth, so that finite differences converge."""

    def __init__(self, channels=2):
        super().__init__()
        self.convolution = TimeConv2d(channels, channels)

    def forward(self, t, x):
        return torch.tanh(self.convolution(t, x))


def images(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def copy_of(module, source):
    module.load_state_dict(source.state_dict())
    return module


def grads(model, x, labels, **autocast):
    """Return the gradient of the cross-entropy with respect to all parameters, as one vector."""
    with torch.autocast("cpu", **({"enabled": False} | autocast)):
        loss = functional.cross_entropy(model(x).to(x.dtype), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def running(model):
    return torch.cat([b.double().flatten() for b in model.buffers()])


# The block.


@pytest.mark.parametrize(
    ("gradient", "settings"),
    [
        ("Backprop", {"solver": "RK4", "steps": 3}),
        ("Checkpointed", {"solver": "RK4", "steps": 3}),
        ("Checkpointed", {"solver": "DP5", "rtol": 1e-9, "atol": 1e-9}),
        ("BacksolveAdjoint", {"solver": "DP5", "rtol": 1e-9, "atol": 1e-9}),
        ("InterpolatingAdjoint", {"solver": "Tsit5", "rtol": 1e-9, "atol": 1e-9}),
    ],
)
def test_the_gradient_is_that_of_finite_differences(gradient, settings):
    torch.manual_seed(0)
    block = ODEBlock(Smooth().double(), gradient=gradient, **settings, **CPU)
    x, weight = images(2, 2, 5, 4).requires_grad_(), block.ode.field.convolution.weight

    def loss():
        return block(x).square().sum()

    for tensor in (x, weight):
        direction, step = images(*tensor.shape, seed=1), 1e-5
        along = (torch.autograd.grad(loss(), tensor)[0] * direction).sum()
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                tensor += sign * step * direction
                ends.append(loss())
                tensor -= sign * step * direction
        assert along == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed"])
def test_euler_is_the_residual_loop_written_by_hand(gradient):
    torch.manual_seed(0)
    dynamics = ConvDynamics(3).double()
    block = ODEBlock(dynamics, solver="Euler", steps=4, times=(0.5, 2.5), gradient=gradient, **CPU)
    x = images(5, 3, 6, 6)
    own = copy_of(ConvDynamics(3).double(), dynamics)
    by_hand = x
    for k in range(4):
        by_hand = by_hand + 0.5 * own(torch.tensor(0.5 + 0.5 * k, dtype=x.dtype), by_hand)
    found = block(x)
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-12)
    assert block.evaluations == 4
    direction = images(*x.shape, seed=1)
    for ours, theirs in zip(
        torch.autograd.grad((found * direction).sum(), list(dynamics.parameters())),
        torch.autograd.grad((by_hand * direction).sum(), list(own.parameters())),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(running(dynamics), running(own), rtol=1e-12, atol=0)


def test_the_exact_solution_of_a_linear_ode():
    x = images(3, 7)
    decay = ODEBlock(lambda t, x: -x * t, times=(1.0, 2.0), rtol=1e-10, atol=1e-10, gradient="Backprop", **CPU)
    torch.testing.assert_close(decay(x), x * math.exp(-1.5), rtol=1e-8, atol=0)
    back = ODEBlock(lambda t, x: -x * t, times=(2.0, 1.0), rtol=1e-10, atol=1e-10, gradient="Backprop", **CPU)
    torch.testing.assert_close(back(decay(x)), x, rtol=1e-8, atol=0)


def test_evaluations_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    x = images(2, 2, 4, 4)
    block = ODEBlock(Smooth().double(), solver="RK4", steps=5, **CPU)
    block(x).sum().backward()  # the backward pass of Checkpointed repeats evaluations, which are not counted
    assert block.evaluations == 20
    counts = []
    for tolerance in (1e-3, 1e-9):
        adaptive = ODEBlock(Smooth().double(), rtol=tolerance, atol=tolerance, **CPU)
        adaptive(x)
        counts.append(adaptive.evaluations)
    assert counts[0] < counts[1]


class Normed(nn.Module):
    """Dynamics with torch's own batch normalization."""

    def __init__(self, momentum):
        super().__init__()
        self.convolution = TimeConv2d(2, 2)
        self.norm = nn.BatchNorm2d(2, momentum=momentum)

    def forward(self, t, x):
        return self.norm(torch.tanh(self.convolution(t, x)))


@pytest.mark.parametrize("gradient", ["Checkpointed", "BacksolveAdjoint", "InterpolatingAdjoint"])
@pytest.mark.parametrize(
    "dynamics",
    [lambda: Normed(0.1), lambda: Normed(None), lambda: ConvDynamics(2), lambda: ConvDynamics(2, parts=3)],
)
def test_batch_norms_count_the_forward_pass_alone(gradient, dynamics):
    """Repeated evaluations in the backward pass use the batch statistics and do not update the running statistics."""
    x, found = images(6, 2, 5, 5), {}
    for method in ("Backprop", gradient):
        torch.manual_seed(0)
        block = ODEBlock(dynamics().double(), solver="Euler", steps=3, gradient=method, **CPU)
        loss = block(x).pow(3).sum()
        found[method] = torch.autograd.grad(loss, list(block.parameters())), running(block)
        norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(m.track_running_stats and int(m.num_batches_tracked.sum()) == 3 for m in norms)
    torch.testing.assert_close(found[gradient][1], found["Backprop"][1], rtol=1e-12, atol=0)
    if gradient == "Checkpointed":
        torch.testing.assert_close(found[gradient][0], found["Backprop"][0], rtol=1e-9, atol=1e-11)


def test_running_statistics_by_time_are_those_of_their_part():
    """Evaluation after many training passes gives nearly the same output, unless one average covers all times."""
    x, gaps = images(200, 2, 5, 5), {}
    for parts in (1, 4):
        torch.manual_seed(0)
        block = ODEBlock(ConvDynamics(2, parts=parts).double(), solver="Euler", steps=4, **CPU)
        with torch.no_grad():
            for _ in range(300):
                trained = block(x)
            gaps[parts] = float((block.eval()(x) - trained).norm() / trained.norm())
    assert gaps[4] < 0.01 < gaps[1]
    norm = block.ode.field.norms[0]
    assert norm.num_batches_tracked.tolist() == [300] * 4
    with torch.no_grad():
        norm.num_batches_tracked[1:3] = 0  # as if these parts were never visited: the nearest visited part is used
        ends = [norm(torch.tensor(t, dtype=x.dtype), x) for t in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[2], ends[3]) and torch.equal(ends[3], ends[4])
    assert not torch.allclose(ends[1], ends[2])


def test_one_part_is_torchs_batch_norm():
    x, t = images(4, 3, 5, 5), torch.tensor(0.4, dtype=torch.float64)
    ours, theirs = TimeBatchNorm2d(3, 1).double(), nn.BatchNorm2d(3).double()
    for _ in range(3):
        torch.testing.assert_close(ours(t, x), theirs(x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(running(ours), running(theirs), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.eval()(t, x), theirs.eval()(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_is_the_same_in_the_forward_and_in_the_backward_pass(inside):
    x, labels, found = images(8, 1, 28, 28, dtype=torch.float32), torch.arange(8), {}
    for gradient in ("Backprop", "Checkpointed"):
        net = classifier(channels=4, steps=3, gradient=gradient)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(net(x).float(), labels)
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        assert net.body(net.stem(x)).dtype == torch.float32
        found[gradient] = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(found["Checkpointed"], found["Backprop"], rtol=1e-5, atol=1e-6)
    exact = grads(classifier(channels=4, steps=3), x, labels)
    gap = (found["Backprop"] - exact).norm() / exact.norm()
    assert 1e-4 < gap < 0.2  # the precision is lower, but the gradient is the same


def test_the_state_keeps_single_precision_under_autocast():
    x = images(4, 3, 5, 5, dtype=torch.float32)
    block = ODEBlock(ConvDynamics(3), solver="Euler", steps=20, **CPU)
    with torch.autocast("cpu", torch.bfloat16):
        assert block(x).dtype == block(x.bfloat16()).dtype == torch.float32


def test_images_keep_their_memory_format_and_passes_do_not_mix():
    torch.manual_seed(0)
    block = ODEBlock(ConvDynamics(3).double(), solver="Euler", steps=3, **CPU)
    x = images(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    for here in (x, last):
        here.requires_grad_()
    plain, other = block(x), block(last)  # both forward passes before the first backward pass
    assert plain.is_contiguous() and other.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, other, rtol=1e-12, atol=1e-12)
    first, second = torch.autograd.grad(plain.square().sum() + other.square().sum(), (x, last))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ["torch", "julia"])
def test_a_described_field_is_the_module_of_the_same_weights(engine, request):
    if engine == "julia":
        request.getfixturevalue("julia")

    class Module(nn.Module):
        def __init__(self, arrays):
            super().__init__()
            self.weights = nn.ParameterDict({k: nn.Parameter(torch.as_tensor(v)) for k, v in arrays.items()})

        def forward(self, t, x):
            for k in (1, 2):
                joined = torch.cat([x, t.expand_as(x[:, :1])], 1)
                x = functional.conv2d(joined, self.weights[f"weight_{k}"], self.weights[f"bias_{k}"], padding=1)
                x = torch.tanh(x) if k == 1 else x
            return x

    settings = {"solver": "RK4", "steps": 4, "gradient": "Checkpointed"}
    field = ConcatConv(channels=2, height=5, width=4, hidden=(3,), activation="tanh")
    described = ODEBlock(field, dtype=torch.float64, engine=engine, seed=3, **settings)
    module = Module(described.ode.arrays())
    by_module = ODEBlock(module, **settings, **CPU)
    x = images(6, 2, 5, 4)
    ours, theirs = described(x), by_module(x)
    assert ours.shape == x.shape
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(described(x.flatten(1)), theirs.flatten(1), rtol=1e-10, atol=1e-12)
    for name, weight in described.ode.weights.items():
        found = torch.autograd.grad(described(x).square().sum(), weight)[0]
        wanted = torch.autograd.grad(by_module(x).square().sum(), module.weights[name])[0]
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_a_described_network_takes_vectors():
    block = ODEBlock(MLP((4, 8, 4)), solver="RK4", steps=2, **CPU)
    assert block(images(3, 4, dtype=torch.float32)).shape == (3, 4)
    assert block(images(3, 2, 2, dtype=torch.float32)).shape == (3, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert block(images(3, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_memory_does_not_grow_with_the_steps():
    """Each step adds no memory with BacksolveAdjoint, one state with Checkpointed, and more with Backprop."""
    x, growth = images(8, 1, 28, 28, dtype=torch.float32), {}
    state = 4 * 8 * 8 * 36
    for gradient in ("BacksolveAdjoint", "Checkpointed", "Backprop"):
        peaks = []
        for steps in (8, 24):
            net = classifier(channels=8, steps=steps, parts=1, gradient=gradient)
            with PeakMemory() as memory:
                net(x).sum().backward()
            peaks.append(memory.peak)
        growth[gradient] = (peaks[1] - peaks[0]) / 16 / state
    assert abs(growth["BacksolveAdjoint"]) < 0.01
    assert growth["Checkpointed"] <= 1.01
    assert growth["Backprop"] > 4


# Parts of the block, and complete classifiers.


def test_the_time_is_one_more_channel():
    torch.manual_seed(0)
    convolution = TimeConv2d(3, 5).double()
    x, t = images(2, 3, 6, 4), torch.tensor(0.7, dtype=torch.float64)
    joined = torch.cat([x, torch.full_like(x[:, :1], 0.7)], dim=1)
    assert tuple(convolution.weight.shape) == (5, 4, 3, 3) and convolution.bias is None
    torch.testing.assert_close(convolution(t, x), functional.conv2d(joined, convolution.weight, padding=1))
    still = ConvDynamics(3, time=False).double().eval()
    moving = ConvDynamics(3).double().eval()
    assert torch.equal(still(t, x), still(2 * t, x)) and not torch.allclose(moving(t, x), moving(2 * t, x))


def test_a_residual_block_adds_two_convolutions():
    torch.manual_seed(0)
    x = images(4, 3, 6, 6)
    block = ResidualBlock(3).double().eval()
    first, second = block.convolutions
    relu = torch.relu
    shrink = (1 + 1e-5) ** -0.5  # the effect of a new batch norm in evaluation mode
    by_hand = x + second(relu(shrink * first(relu(shrink * x))))
    torch.testing.assert_close(block(x), by_hand, rtol=1e-10, atol=1e-12)
    wider = ResidualBlock(3, 5, stride=2).double().eval()
    nn.init.zeros_(wider.convolutions[1].weight)
    torch.testing.assert_close(wider(x), functional.conv2d(relu(shrink * x), wider.shortcut.weight, stride=2))


@pytest.mark.parametrize(
    ("kind", "count"), [("odenet", 208_010), ("rknet", 208_010), ("resnet", 601_482), ("cnn", 206_858)]
)
def test_parameter_counts(kind, count):
    net = classifier(kind)
    assert sum(p.numel() for p in net.parameters()) == count
    assert net.stem(images(2, 1, 28, 28, dtype=torch.float32)).shape[1] == 64
    assert isinstance(net.body, ODEBlock) != (kind in ("resnet", "cnn"))


@pytest.mark.parametrize("kind", ["odenet", "rknet", "resnet", "cnn"])
def test_classifiers_answer_with_logits_and_learn(kind):
    net = classifier(kind, channels=4, steps=2, blocks=2)
    x, labels = images(20, 1, 28, 28, dtype=torch.float32), torch.arange(20) % 10
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert net(x).shape == (20, 10) and losses[-1] < 0.5 * losses[0]
    assert net.evaluations == (2 if kind in ("odenet", "rknet") else None)


def test_an_odenet_and_an_rknet_of_one_seed_are_one_network():
    x, labels = images(4, 1, 28, 28), torch.arange(4)
    state = torch.random.get_rng_state()
    nets = [classifier(kind, channels=4, steps=3, seed=5).double() for kind in ("odenet", "rknet")]
    assert torch.equal(state, torch.random.get_rng_state())
    first, second = (grads(net, x, labels) for net in nets)
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)
    other = classifier(channels=4, steps=3, seed=6).double()
    assert not torch.allclose(other(x), nets[0](x))


# Invalid arguments.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": 0}, "steps is 0: give a positive integer"),
        ({"steps": 2.5}, "steps is 2.5: give a positive integer"),
        ({"steps": 2, "step_size": 0.1}, "steps is 2 and step_size is 0.1: give one of the two"),
        ({"times": (1.0, 1.0)}, r"times is \(1.0, 1.0\): give two different finite numbers"),
        ({"times": 1.0}, "times is 1.0: give the two numbers t0 and t1"),
        ({"solver": "Oiler"}, "did you mean 'Euler'"),
        ({"gradient": "Backpropagation"}, "did you mean 'Backprop'"),
        ({"stepz": 3}, "stepz is not a known argument"),
    ],
)
def test_wrong_arguments_of_a_block(arguments, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        ODEBlock(ConvDynamics(2), **CPU, **arguments)


def test_wrong_dynamics_and_inputs():
    with pytest.raises(ArgumentError, match=r"it must accept \(t, y\)"):
        ODEBlock(nn.Conv2d(2, 2, 3), **CPU)
    with pytest.raises(ArgumentError, match="the field is a str"):
        ODEBlock("dynamics", **CPU)
    with pytest.raises(ArgumentError, match="another shape|returned shape"):
        ODEBlock(lambda t, x: x[:1], gradient="Backprop", **CPU)(images(2, 3))
    with pytest.raises(ArgumentError, match="x is of type torch.int64"):
        ODEBlock(ConvDynamics(2), **CPU)(torch.zeros(1, 2, 4, 4, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="x is of type list"):
        ODEBlock(ConvDynamics(2), **CPU)([1.0])
    with pytest.raises(ArgumentError, match="Dynamics cannot be evaluated .* use a y0 that the field accepts"):
        ODEBlock(ConvDynamics(2), **CPU)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(SolverError, match="x contains a non-finite number"):
        ODEBlock(ConvDynamics(2), **CPU)(torch.full((1, 2, 4, 4), torch.nan))
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ArgumentError, match="make the field a torch.nn.Module"):
        ODEBlock(lambda t, x: scale * x, **CPU)(images(2, 3))
    with pytest.raises(SolverError, match="non-finite"):
        ODEBlock(lambda t, x: 1e30 * x**3, solver="Euler", steps=20, gradient="Backprop", **CPU)(1 + images(2, 3))


def test_dropout_in_dynamics_needs_backprop():
    class Dropping(ConvDynamics):
        def __init__(self):
            super().__init__(2)
            self.drop = nn.Dropout2d(0.5)

    with pytest.raises(ArgumentError, match="write gradient='Backprop'"):
        ODEBlock(Dropping(), **CPU)
    ODEBlock(Dropping(), gradient="Backprop", **CPU)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "odenets"}, "did you mean 'odenet'"),
        ({"channels": 0}, "channels is 0: give a positive integer"),
        ({"steps": "20"}, "steps is '20': give a positive integer"),
        ({"parts": 0}, "parts is 0: give a positive integer"),
        ({"kind": "rknet", "gradient": "Checkpointed"}, "but kind=.rknet. always uses Backprop"),
        ({"kind": "resnet", "gradient": "Backprop"}, "gradient is given, but kind=.resnet. has no ODE"),
        ({"kind": "cnn", "rtol": 1e-3}, "rtol is given, but kind=.cnn. has no ODE"),
    ],
)
def test_wrong_arguments_of_a_classifier(arguments, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        classifier(**arguments)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (28, 28), (2, 28, 28)])
def test_images_of_another_size_are_refused(shape):
    with pytest.raises(ArgumentError, match=r"images have shape .*: use shape \(n, 1, 28, 28\)"):
        classifier(channels=2)(torch.zeros(shape))


def test_images_must_be_floats():
    with pytest.raises(ArgumentError, match="images are of type torch.uint8: give normalized floats"):
        classifier(channels=2)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
