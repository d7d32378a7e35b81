"""Moving from torchdiffeq: only the import changes.

The code below is written for torchdiffeq 0.2.5: a net learns the cubic spiral from pieces of its trajectory.
`odeint`, `odeint_adjoint` and `odeint_event` have the same arguments and the same methods.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from pyneuralode import odeint, odeint_adjoint  # was: from torchdiffeq import odeint, odeint_adjoint

MATRIX = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


class Spiral(nn.Module):
    def forward(self, t, y):
        return y**3 @ MATRIX


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

    def forward(self, t, y):
        return self.layers(y**3)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer iterations")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()

    torch.manual_seed(0)
    start, t = torch.tensor([[2.0, 0.0]]), torch.linspace(0, 25, 1000)
    with torch.no_grad():
        truth = odeint(Spiral(), start, t, method="dopri5")

    net = Net()
    optimizer = torch.optim.RMSprop(net.parameters(), lr=3e-3)
    pieces = t[:10]
    for iteration in range(150 if options.quick else 1000):
        first = torch.randint(0, len(t) - 10, (20,))
        wanted = torch.stack([truth[first + k] for k in range(10)])
        optimizer.zero_grad()
        ys = odeint_adjoint(net, truth[first], pieces, method="rk4")
        loss = (ys - wanted).abs().mean()
        loss.backward()
        optimizer.step()
        if iteration % 50 == 0:
            print(f"iteration {iteration}: mean error of the pieces {loss.item():.4f}")

    with torch.no_grad():
        found = odeint(net, start, t, method="dopri5")
    print(f"mean error of the pieces {loss.item():.4f}, of the whole spiral {(found - truth).abs().mean():.3f}")

    if options.figure:
        from pyneuralode.plotting.fits import fitted_columns

        states = truth[::10, 0].numpy(), found[:, 0].numpy()
        figure = fitted_columns(t[::10].numpy(), states[0], t.numpy(), states[1], ["y1", "y2"], "t")
        figure.savefig(options.figure)


if __name__ == "__main__":
    main()
