"""The problems on which the drop-in functions are compared with torchdiffeq 0.2.5."""

import warnings

import pytest
import torch

from pyneuralode import dropin

torchdiffeq = pytest.importorskip("torchdiffeq")

F64, F32 = torch.float64, torch.float32


class VectorField(torch.nn.Module):
    """A nonlinear, non-autonomous field on (..., 2) that counts its evaluations."""

    def __init__(self, dtype=F64, timed=True):
        super().__init__()
        self.A = torch.nn.Parameter(torch.tensor([[-0.3, 1.2], [-1.1, -0.2]], dtype=dtype))
        self.bias = torch.nn.Parameter(torch.tensor([0.1, -0.2], dtype=dtype))
        self.evaluations, self.timed = 0, timed

    def forward(self, t, y):
        self.evaluations += 1
        assert isinstance(t, torch.Tensor) and t.ndim == 0
        wave = 1 + 0.3 * torch.sin(2 * t) if self.timed else 1
        return torch.tanh(y @ self.A + self.bias) * wave


class Pair(VectorField):
    """The field `VectorField` for a tuple of a state (2,) and a scalar."""

    def forward(self, t, state):
        y, z = state
        return super().forward(t, y), -z * torch.cos(t) + y.sum()


def start(dtype=F64, shape="tensor"):
    if shape == "tensor":
        return torch.tensor([[1.0, 0.5], [0.2, -1.0], [2.0, 0.0]], dtype=dtype)
    return torch.tensor([1.0, 0.5], dtype=dtype), torch.tensor(0.7, dtype=dtype)


def times(dtype=F64, falling=False, n=21, end=2.0):
    t = torch.linspace(0.0, end, n, dtype=dtype) ** 1.5
    return t.flip(0) if falling else t


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def both(make, y0, t, call="odeint", **arguments):
    """Return (field, solution) from pyneuralode, and (field, solution) from torchdiffeq."""
    found = []
    for library in (dropin, torchdiffeq):
        field = make()
        function = library.odeint if call == "odeint" else library.odeint_adjoint
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the Adams methods' coarse steps do not always converge
            found.append((field, function(field, y0, t, **arguments)))
    return found


def assert_equal(ours, theirs, rtol, atol):
    assert type(ours) is type(theirs)
    for a, b in zip(parts(ours), parts(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
