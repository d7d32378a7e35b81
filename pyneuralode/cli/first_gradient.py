"""Time the stages from `import pyneuralode` to a first gradient, in a new process.

The new process runs this file: `python -m pyneuralode.cli.first_gradient julia` prints the stages as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from time import perf_counter

from ..errors import EngineError

PROMISE = 20.0  # seconds


def first_gradient(engine: str) -> dict[str, float]:
    """Return the seconds of each stage on `engine` ("torch" or "julia"), in a new process."""
    command = [sys.executable, "-m", __name__, engine]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise EngineError(f"the first gradient on the {engine} engine failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(engine: str) -> dict[str, float]:
    stages = {}
    tick = perf_counter()

    def stage(name: str) -> None:
        nonlocal tick
        stages[name] = perf_counter() - tick
        tick = perf_counter()

    import torch

    import pyneuralode as pn

    field, NeuralODE = pn.MLP((2, 50, 2)), pn.NeuralODE  # pyneuralode imports its public names at first use
    stage("import")
    if engine == "julia":
        from pyneuralode.engines.julia_engine.in_process import start_runtime
        from pyneuralode.engines.julia_engine.probe import probe

        start_runtime(probe())
        stage("Julia")
        pn.start_julia("inside")
        stage("packages")
    model = NeuralODE(field, solver="Tsit5", gradient="Backprop", engine=engine)
    ys = model(torch.tensor([2.0, 0.0], dtype=torch.float64), torch.linspace(0, 1.5, 30, dtype=torch.float64))
    ys.square().mean().backward()
    stage("first gradient")
    return stages


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
