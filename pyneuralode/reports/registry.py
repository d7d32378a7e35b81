"""The experiments that `pyneuralode report` knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ..errors import unknown_name
from .base import Context, Report


@dataclass(frozen=True)
class Experiment:
    """An experiment: its id, its title, the document it is from, and the module whose `run` computes it.

    Another function of the module is named behind a colon.
    """

    id: str
    title: str
    source: str
    module: str

    def load(self) -> Callable[[Context], Report]:
        """Import the module, which may be slow, and return its `run(context)`."""
        module, _, function = self.module.partition(":")
        return getattr(import_module(module), function or "run")


_KTH_REPORT = '"Exploring Neural Ordinary Differential Equations", KTH, DD2424 project report, 2022'
_KTH_POSTER = '"Neural Ordinary Differential Equations", KTH, SF2525 poster'
_REVIEW = '"Neural Ordinary Differential Equations: Review of Literature", Pittsburgh, 2023'
_ANODEV2 = '"ANODEV2: A Coupled Neural ODE Framework", NeurIPS 2019'
_SUMMARY = 'one-page summary of Chen et al., "Neural Ordinary Differential Equations" (NeurIPS 2018)'

EXPERIMENTS: dict[str, Experiment] = {
    experiment.id: experiment
    for experiment in (
        Experiment(
            "covid",
            "Sweden's epidemic by a neural ODE, with growing time spans",
            f"{_KTH_REPORT}, Fig. 3, 6 and 7",
            "pyneuralode.reports.covid",
        ),
        Experiment(
            "seir", "Sweden's epidemic by the SEIR model", f"{_KTH_REPORT}, Fig. 2, 3 and 5", "pyneuralode.reports.seir"
        ),
        Experiment(
            "cubic",
            "The cubic spiral from thirty points, over growing time spans",
            f"{_KTH_POSTER}, Fig. 1",
            "pyneuralode.reports.cubic",
        ),
        Experiment(
            "spiral",
            "A spiral from short pieces, by three solvers",
            f"{_REVIEW}, section 4.3.2",
            "pyneuralode.reports.spiral",
        ),
        Experiment(
            "depth",
            "Layers of a residual network against an ODE",
            f"{_KTH_REPORT}, Fig. 1",
            "pyneuralode.reports.depth",
        ),
        Experiment(
            "adjoint",
            "Gradient methods: their error and their memory",
            f"{_KTH_REPORT}, section 2.1; {_REVIEW}, section 4.2; ANODEV2 (NeurIPS 2019), section 1",
            "pyneuralode.reports.adjoint",
        ),
        Experiment(
            "flag",
            "A continuous normalizing flow learns a flag",
            f"{_KTH_REPORT}, Fig. 4; {_KTH_POSTER}, Fig. 2",
            "pyneuralode.reports.flag",
        ),
        Experiment(
            "flag-table",
            "Right-hand sides of flows on the flag",
            f"{_KTH_REPORT}, Table 1, Fig. 8 and 9",
            "pyneuralode.reports.flag_table",
        ),
        Experiment(
            "flow-compare",
            "Continuous against planar flows on given densities",
            _SUMMARY,
            "pyneuralode.reports.flow_compare",
        ),
        Experiment(
            "mnist-flow",
            "Handwritten digits by continuous normalizing flows",
            f"{_KTH_REPORT}, Fig. 10",
            "pyneuralode.reports.mnist_flow",
        ),
        Experiment(
            "anodev2-table1",
            "Weights that evolve in the steps of the activations (configuration one)",
            f"{_ANODEV2}, Table 1",
            "pyneuralode.reports.anodev2_tables:table1",
        ),
        Experiment(
            "anodev2-table2",
            "Weights that evolve in steps of their own (configuration two)",
            f"{_ANODEV2}, Table 2",
            "pyneuralode.reports.anodev2_tables:table2",
        ),
        Experiment(
            "anodev2-table3",
            "Parameters of the networks",
            f"{_ANODEV2}, Table 3",
            "pyneuralode.reports.anodev2_tables:table3",
        ),
        Experiment(
            "anodev2-table4",
            "Two gradients of the same ODE, with and without evolving weights",
            f"{_ANODEV2}, Table 4",
            "pyneuralode.reports.anodev2_tables:table4",
        ),
        Experiment(
            "anodev2-transport",
            "Transport at a changing speed, by a constant and by an evolving kernel",
            f"{_ANODEV2}, Fig. 2",
            "pyneuralode.reports.anodev2_transport",
        ),
        Experiment(
            "anodev2-kernels",
            "Kernels that evolve, synthetic and trained",
            f"{_ANODEV2}, Fig. 1 and 3 to 6",
            "pyneuralode.reports.anodev2_kernels",
        ),
        Experiment(
            "odenet",
            "Digits read by ODE-Nets, an RK-Net and a ResNet",
            f"{_SUMMARY}; {_REVIEW}, section 4.3.1",
            "pyneuralode.reports.odenet",
        ),
    )
}


def find_experiment(id: str) -> Experiment:
    """Return the experiment of that id; an id that is not known is an ArgumentError naming the nearest."""
    if id not in EXPERIMENTS:
        raise unknown_name("the experiment", id, EXPERIMENTS)
    return EXPERIMENTS[id]
