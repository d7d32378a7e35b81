"""The compiled path for formulas with batch='independent', where each sample takes its own steps."""

from __future__ import annotations

from dataclasses import replace

import torch

from .....problem import Problem, Solution
from ...batched.control import name_sample
from ...events import message
from ...independent import Batch, IndependentPrepared, check_states
from ...stiff import find_tableau
from ..available import wants_gradient
from ..times import KnownTimes
from .function import Failure, FormulaSolve, FormulaSolver, Systems, by_system
from .path import Formulas


class FormulasOfEach(Formulas):
    """A CPU backend for formulas with batch='independent'; the parameters may differ between samples."""

    def unsupported(self, problem: Problem) -> str | None:
        if "ts" in problem.signature.differentiated:
            return "ts requires gradients: use compiled=False."
        return super().unsupported(problem)

    def prepare(self, problem: Problem) -> FormulasOfEachPrepared:
        return FormulasOfEachPrepared(problem)


class FormulasOfEachPrepared(IndependentPrepared):
    """A problem with batch='independent', with its program and method prepared for the kernels."""

    engine = Formulas.name

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.solver = FormulaSolver(problem)
        self.times = KnownTimes(find_tableau(problem.solver), problem.control)

    def solve_batch(self, batch: Batch) -> Solution:
        if self.problem.signature.times == "shared":
            times = [self.times.read(batch.times[0])] * self.samples
        else:
            rows = batch.times.detach().double().tolist()  # one conversion, since one for each sample is slow
            times = [self.times.plan(row[:count]) for row, count in zip(rows, batch.counts)]
        control = replace(self.problem.control, **dict(self.tolerances()))
        theta = self.solver.theta(batch.parameters, self.samples)
        differentiated = wants_gradient(batch.y0, theta)
        systems = Systems(self.solver, times, [by_system(control.rtol), by_system(control.atol)], differentiated)
        try:
            if differentiated:
                states = FormulaSolve.apply(systems, batch.y0, theta)
            else:
                states = systems.march(batch.y0.detach().double().numpy(), theta.detach().double().numpy())
                states = torch.from_numpy(states).to(batch.y0.dtype)
        except Failure as failure:
            raise name_sample(failure.error, failure.sample) from None
        width = batch.times.shape[1]
        row, slot = (torch.arange(width) < torch.tensor(batch.counts)[:, None]).nonzero(as_tuple=True)
        check_states(states.detach(), batch.times[row, slot], row)
        table = torch.nn.utils.rnn.pad_sequence(states.split(batch.counts), batch_first=True, padding_value=torch.nan)
        counted = dict(zip(("nfev", "accepted", "rejected"), systems.counts.T))
        return self.solution(batch, table, batch.counts, counted, [message(-1, 0.0)] * self.samples, None)
