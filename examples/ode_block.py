"""An ODE as a layer of your own image model, which classifies noisy images of stripes and checkerboards."""

import argparse

import torch
from torch import nn

import pyneuralode as pn
from pyneuralode.images import ConvDynamics

SIDE = 12


def draw(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (n, 1, SIDE, SIDE) with labels: horizontal stripes (0), vertical stripes (1), checkerboards (2)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    patterns = torch.stack([row, column, row + column]) % 2 * 2.0 - 1.0
    noise = torch.randn(n, 1, SIDE, SIDE, generator=generator)
    return patterns[labels][:, None] + noise, labels


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer updates")
    options = arguments.parse_args()
    updates = 60 if options.quick else 200

    torch.manual_seed(0)
    # Ten Euler steps of a small convolutional network; the gradient stores only one state per step.
    block = pn.ODEBlock(ConvDynamics(8), solver="Euler", steps=10, gradient="Checkpointed")
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for update in range(updates):
        images, labels = draw(64, seed=update)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    # Trained with ten steps, tested with as many as the tolerance requires.
    model[2] = pn.ODEBlock(block.ode.field, solver="Tsit5", rtol=1e-3, atol=1e-3)
    model.eval()
    images, labels = draw(1000, seed=10_000)
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).float().mean()
    print(f"unseen images classified correctly: {100 * right:.1f} %, with {model[2].evaluations} evaluations")


if __name__ == "__main__":
    main()
