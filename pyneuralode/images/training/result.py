"""What a training of a classifier leaves: curves by epoch, and the answers to the test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from ...fitting.stochastic import StochasticFit


@dataclass
class Curves:
    """Numbers of every epoch.

    Attributes
    ----------
    loss, train_accuracy : list of float
        Means over the epoch's batches, as they were trained on; accuracies are from 0 to 1.
    test_accuracy : list of float
    evaluations : list of float
        Evaluations of the dynamics in one forward pass, the mean over the epoch; 0 for a net without any.
    seconds : list of float
        Of the epoch, its test included.
    """

    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the lists by name, rounded."""
        return {name: [round(number, 6) for number in values] for name, values in asdict(self).items()}


@dataclass(frozen=True)
class ClassifierFit:
    """A trained classifier and its numbers.

    Attributes
    ----------
    model : nn.Module
    fit : StochasticFit
        Loss and evaluations of every update.
    curves : Curves
    logits : (test images, classes) or None
        Of the test images, on the CPU; None where the training was interrupted.
    accuracy : float or None
        Part of the test images that are read right.
    processes : int
    """

    model: nn.Module
    fit: StochasticFit
    curves: Curves
    logits: Tensor | None
    accuracy: float | None
    processes: int = 1

    def misread(self, labels: Tensor) -> Tensor:
        """Return which test images (k,) are misread, the most certain mistakes first; `labels` are the right ones."""
        if self.logits is None:
            return labels.new_empty(0)
        certainty, answers = self.logits.softmax(1).max(1)
        wrong = (answers != labels.cpu()).nonzero()[:, 0]
        return wrong[certainty[wrong].argsort(descending=True)]
