"""Your own `torch.nn.Module` in your own training loop.

The known part of a pendulum is written as code, d(angle)/dt = velocity; the unknown force is a network of the angle.
Any module with `forward(t, y)` can be solved, and its parameters get gradients as usual.
"""

import argparse
from pathlib import Path

import torch

import pyneuralode as pn


class Pendulum(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.force = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def forward(self, t, y):
        angle, velocity = y[..., :1], y[..., 1:]
        return torch.cat([velocity, self.force(angle)], dim=-1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer iterations")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()

    # Eight swings from eight angles, solved as one batch; RK4 takes one step between consecutive times.
    torch.manual_seed(0)
    starts = torch.stack([torch.linspace(-2.5, 2.5, 8), torch.zeros(8)], dim=-1)
    ts = torch.linspace(0, 3, 13)
    truth = pn.solve(lambda t, y: torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1), starts, ts).ys

    pendulum = Pendulum()
    optimizer = torch.optim.Adam(pendulum.parameters(), lr=0.1)
    iterations = 200 if options.quick else 1000
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=iterations)
    for iteration in range(iterations):
        optimizer.zero_grad()
        ys = pn.solve(pendulum, starts, ts, solver="RK4").ys
        loss = (ys - truth).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        if iteration % 50 == 0:
            print(f"iteration {iteration}: mean square {loss.item():.2e}")

    angles = torch.linspace(-2.5, 2.5, 101)
    with torch.no_grad():
        force = pendulum.force(angles[:, None])[:, 0]
    error = (force + torch.sin(angles)).abs().max().item()
    print(f"the learned force differs from -sin(angle) by at most {error:.3f}")

    if options.figure:
        from pyneuralode.plotting.fits import fitted_columns

        truth = -torch.sin(angles)[:, None]
        figure = fitted_columns(
            angles[::5].numpy(),
            truth[::5].numpy(),
            angles.numpy(),
            force[:, None].numpy(),
            ["force"],
            "angle",
        )
        figure.savefig(options.figure)


if __name__ == "__main__":
    main()
