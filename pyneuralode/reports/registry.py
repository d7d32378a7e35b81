"""The reports available to `pyneuralode report`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ..errors import unknown_name
from .base import Context, Findings


@dataclass(frozen=True)
class Report:
    """A report: its id, its title, the document whose results it recomputes, and its module.

    By default, the module's name is the id with underscores. The module's function `run` computes the report; to use
    another function, append a colon and its name to the module.
    """

    id: str
    title: str
    source: str
    module: str = ""

    def load(self) -> Callable[[Context], Findings]:
        """Import the module, which may be slow, and return its `run(context)`."""
        module, _, function = (self.module or f".{self.id.replace('-', '_')}").partition(":")
        return getattr(import_module(module, __package__), function or "run")


_KTH_REPORT = '"Exploring Neural Ordinary Differential Equations", KTH, DD2424 project report, 2022'
_KTH_POSTER = '"Neural Ordinary Differential Equations", KTH, SF2525 poster'
_REVIEW = '"Neural Ordinary Differential Equations: Review of Literature", Pittsburgh, 2023'
_ANODEV2 = '"ANODEV2: A Coupled Neural ODE Framework", NeurIPS 2019'
_SUMMARY = 'one-page summary of Chen et al., "Neural Ordinary Differential Equations" (NeurIPS 2018)'

_ALL = (
    Report("covid", "Sweden's epidemic fitted by a neural ODE, over growing spans", f"{_KTH_REPORT}, Figs. 3, 6 and 7"),
    Report("seir", "Sweden's epidemic fitted by the SEIR model", f"{_KTH_REPORT}, Figs. 2, 3 and 5"),
    Report("cubic", "The cubic spiral learned from thirty points, over growing time spans", f"{_KTH_POSTER}, Fig. 1"),
    Report("spiral", "A spiral learned from short segments, with three solvers", f"{_REVIEW}, section 4.3.2"),
    Report("depth", "Layers of a residual network compared with an ODE", f"{_KTH_REPORT}, Fig. 1"),
    Report(
        "adjoint",
        "Gradient methods: error and memory",
        f"{_KTH_REPORT}, section 2.1; {_REVIEW}, section 4.2; ANODEV2 (NeurIPS 2019), section 1",
    ),
    Report("flag", "A continuous normalizing flow learns a flag", f"{_KTH_REPORT}, Fig. 4; {_KTH_POSTER}, Fig. 2"),
    Report(
        "flag-table",
        "Flows with different right-hand sides, trained on the flag",
        f"{_KTH_REPORT}, Table 1, Figs. 8 and 9",
    ),
    Report("flow-compare", "Continuous and planar flows compared on given densities", _SUMMARY),
    Report("mnist-flow", "Handwritten digits from continuous normalizing flows", f"{_KTH_REPORT}, Fig. 10"),
    Report(
        "anodev2-table1",
        "Weights that evolve in the same steps as the activations (configuration one)",
        f"{_ANODEV2}, Table 1",
        ".anodev2_tables:table1",
    ),
    Report(
        "anodev2-table2",
        "Weights that evolve in separate steps (configuration two)",
        f"{_ANODEV2}, Table 2",
        ".anodev2_tables:table2",
    ),
    Report("anodev2-table3", "Parameters of the networks", f"{_ANODEV2}, Table 3", ".anodev2_tables:table3"),
    Report(
        "anodev2-table4",
        "Two gradients of the same ODE, with and without evolving weights",
        f"{_ANODEV2}, Table 4",
        ".anodev2_tables:table4",
    ),
    Report(
        "anodev2-transport",
        "Transport at a changing speed, with a constant and an evolving kernel",
        f"{_ANODEV2}, Fig. 2",
    ),
    Report("anodev2-kernels", "Evolving kernels, synthetic and trained", f"{_ANODEV2}, Figs. 1 and 3 to 6"),
    Report("odenet", "Digits classified by ODE-Nets, an RK-Net and a ResNet", f"{_SUMMARY}; {_REVIEW}, section 4.3.1"),
)
REPORTS: dict[str, Report] = {report.id: report for report in _ALL}


def find_report(id: str) -> Report:
    """Return the report with this id, or raise an ArgumentError that suggests the nearest known id."""
    if id not in REPORTS:
        raise unknown_name("the report", id, REPORTS)
    return REPORTS[id]
