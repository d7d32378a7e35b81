"""Results of a classifier's training: curves over the epochs, and the logits of the test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from ...fitting.stochastic import StochasticFit


@dataclass
class Curves:
    """Training curves: lists with one number per epoch.

    Attributes
    ----------
    loss, train_accuracy : list of float
        Means over the epoch's batches, measured during training; accuracies range from 0 to 1.
    test_accuracy : list of float
    evaluations : list of float
        Mean number of evaluations of the dynamics in a forward pass; 0 for a net without dynamics.
    seconds : list of float
        Time of the epoch, including its test.
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
    """A trained classifier and its measurements.

    Attributes
    ----------
    model : nn.Module
    fit : StochasticFit
        Loss and evaluations of every update.
    curves : Curves
    logits : (test images, classes) or None
        Logits of the test images, on the CPU; None if the training was interrupted.
    accuracy : float or None
        Fraction of the test images that are classified correctly.
    processes : int
    """

    model: nn.Module
    fit: StochasticFit
    curves: Curves
    logits: Tensor | None
    accuracy: float | None
    processes: int = 1

    def misread(self, labels: Tensor) -> Tensor:
        """Return the indices (k,) of misclassified test images, most confident first; `labels` are the true labels."""
        if self.logits is None:
            return labels.new_empty(0)
        certainty, answers = self.logits.softmax(1).max(1)
        wrong = (answers != labels.cpu()).nonzero()[:, 0]
        return wrong[certainty[wrong].argsort(descending=True)]
