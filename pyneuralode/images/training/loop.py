"""Training of a classifier, in one process or several.

All randomness follows from the seed and the index of the update. A resumed run therefore gives the same result as an
uninterrupted one, and the images, their order and their augmentation do not depend on the number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, DataError, PyNeuralODEError
from ...fitting.stochastic import BatchLoss, train
from ...processes import Place, own_checkpoint, shared_mean
from ...progress import Progress, SilentProgress
from .data import Batches, ImageData
from .measure import accuracy, dtype_of, measure
from .recipes import ClassifierRecipe
from .result import ClassifierFit, Curves


def train_classifier(
    model: nn.Module,
    train_data: ImageData,
    test_data: ImageData,
    recipe: ClassifierRecipe,
    *,
    seed: int = 0,
    at: Place | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    progress: Progress | None = None,
    callback: Callable[[Curves], None] | None = None,
) -> ClassifierFit:
    """Train a classifier and test it after every epoch.

    Parameters
    ----------
    model : nn.Module
        Maps normalized images (n, channels, height, width) to logits (n, classes); trained in place. Evaluations of
        the dynamics are counted in modules with an attribute ``evaluations``.
    train_data, test_data : ImageData
    recipe : ClassifierRecipe
        One of `RECIPES`, or your own.
    seed : int
        Seed of the batches and their augmentation; the model's parameters have their own seed.
    at : Place, optional
        Device and process to train on; see `processes.place`. Several processes share each batch and average their
        gradients; in each process, batch norms use the statistics of its part of the batch.
    checkpoint, checkpoint_every, resume
        File to which the training is saved every `checkpoint_every` epochs and at the end. With ``resume=True`` an
        interrupted run continues from there and ends exactly as if it had not been interrupted.
    progress : Progress, optional
    callback : callable, optional
        ``callback(curves)`` is called after every epoch, in the first process only.

    Returns
    -------
    ClassifierFit
        Also returned after Ctrl-C or if the loss becomes non-finite: then ``fit.finished`` is False, ``fit.message``
        states the reason, and the model has the best parameters so far.

    Raises
    ------
    ArgumentError
        If the model does not map the images to logits, or the batch cannot be divided equally among the processes.
    DataError
        If test and training images differ in shape or classes.
    """
    at = at or Place(torch.device("cpu"))
    if recipe.batch % at.world:
        raise ArgumentError(
            f"batch is {recipe.batch}, but there are {at.world} processes: give a multiple of {at.world}."
        )
    if test_data.shape != train_data.shape or test_data.classes != train_data.classes:
        raise DataError(
            f"test_data has shape {test_data.shape} and {test_data.classes} classes, but train_data has shape "
            f"{train_data.shape} and {train_data.classes} classes: use the same shape and classes."
        )
    model.to(at.device, memory_format=torch.channels_last if recipe.channels_last else torch.preserve_format)
    _check_model(model, train_data)
    work = _ClassifierUpdates(model, train_data, test_data.to(at.device), recipe, seed, at, callback)
    each_epoch = work.batches.each_epoch
    with own_checkpoint(checkpoint, resume, at) as store:
        fit = train(
            model,
            work,
            updates=recipe.epochs * each_epoch,
            optimizer=recipe.optimizer,
            schedule=recipe.rate(each_epoch),
            progress=progress if progress is not None and at.rank == 0 else SilentProgress(),
            callback=work.after,
            checkpoint=store,
            checkpoint_every=checkpoint_every * each_epoch,
            resume=resume,
            identity={
                "model": str(model),
                "batch": str(recipe.batch),
                "augmentation": repr(recipe.augmentation),
                "precision": recipe.precision,
                "smoothing": str(recipe.smoothing),
                "images": train_data.digest(),
                "seed": str(seed),
            },
            records=vars(work.curves),
        )
    if fit.interrupted:
        return ClassifierFit(model, fit, work.curves, None, None, at.world)
    logits = work.logits if fit.finished and work.logits is not None else measure(model, work.tests, at=at)
    return ClassifierFit(model, fit, work.curves, logits.cpu(), accuracy(logits, work.tests.labels), at.world)


class _ClassifierUpdates:
    """The computation of each training update, and the measurements after each epoch."""

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        tests: ImageData,
        recipe: ClassifierRecipe,
        seed: int,
        at: Place,
        callback: Callable[[Curves], None] | None,
    ):
        self.model, self.tests, self.recipe, self.at = model, tests, recipe, at
        self.callback = callback if at.rank == 0 else None
        self.batches = Batches(data.to(at.device), recipe.batch, recipe.augmentation, seed)
        self.trained = nn.parallel.DistributedDataParallel(model) if at.world > 1 else model
        self.dtype = dtype_of(model)
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
        self.curves, self.logits = Curves(), None
        self.seed, self.part = seed, slice(at.rank, None, at.world)
        self._begin()

    def _begin(self) -> None:
        self.losses, self.right, self.evaluations, self.tick = 0.0, 0.0, 0, time.perf_counter()

    def __call__(self, update: int) -> BatchLoss:
        images, labels = self.batches(update, self.part)
        self.trained.train()
        low = torch.autocast(self.at.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")
        with low, self._random(update):
            logits = self.trained(images.to(self.dtype, memory_format=self.layout))
        loss = shared_mean(self.loss(logits.to(self.dtype), labels), self.at)
        self.losses += loss.detach()
        self.right += shared_mean((logits.argmax(1) == labels).float().mean(), self.at)
        evaluations = _evaluations(self.model)
        self.evaluations += evaluations
        return BatchLoss(loss, loss, evaluations, self._note(update))

    @contextmanager
    def _random(self, update: int) -> Iterator[None]:
        """Seed torch's random number generators, which dropout uses, from the seed, the update and the process."""
        device = self.at.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, 2, update, self.at.rank)).generate_state(1)[0]))
            yield

    def _note(self, update: int) -> str:
        """Return a progress note: this epoch's accuracy so far, and the test accuracy after the previous epoch."""
        note = f", {float(self.right) / (update % self.batches.each_epoch + 1):.2%} correct"
        return note + (f", test accuracy {self.curves.test_accuracy[-1]:.2%}" if self.curves.test_accuracy else "")

    def after(self, update: int, loss: float) -> None:
        """Evaluate the model on the test images at the end of an epoch."""
        count = self.batches.each_epoch
        if (update + 1) % count:
            return
        self.logits = measure(self.model, self.tests, at=self.at)
        curves = self.curves
        curves.loss.append(float(self.losses) / count)
        curves.train_accuracy.append(float(self.right) / count)
        curves.test_accuracy.append(accuracy(self.logits, self.tests.labels))
        curves.evaluations.append(self.evaluations / count)
        curves.seconds.append(time.perf_counter() - self.tick)
        self._begin()
        if self.callback is not None:
            self.callback(curves)


def _evaluations(module: nn.Module) -> int:
    """Return the number of evaluations of the dynamics in the last forward pass of a module or its submodules."""
    own = getattr(module, "evaluations", None)
    return sum(map(_evaluations, module.children())) if own is None else own


def _check_model(model: nn.Module, data: ImageData) -> None:
    """Raise an ArgumentError unless the model maps images to logits (n, classes); two of the images are tried."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        with torch.no_grad():
            logits: Tensor = model(data.normalized(data.images[:2]).to(device, dtype_of(model)))
    except PyNeuralODEError:
        raise
    except RuntimeError as error:
        complaint = str(error).splitlines()[0]
        raise ArgumentError(
            f"the model does not accept images of shape {data.shape} ({complaint}): give a model that does."
        ) from None
    if logits.shape != (min(2, len(data)), data.classes):
        raise ArgumentError(
            f"the model returned shape {tuple(logits.shape)}: give a model that returns logits of shape "
            f"(n, {data.classes})."
        )
