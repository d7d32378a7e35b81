"""The Python code in docs/julia.md runs, in the order of the page."""

import re
from pathlib import Path

import numpy as np
import pytest

import pyneuralode as pn

PAGE = Path(__file__).resolve().parents[3] / "docs" / "julia.md"


def test_the_code_on_the_page_runs(julia, monkeypatch):
    monkeypatch.setenv("PYNEURALODE_ENGINE", "auto")
    if not PAGE.is_file():
        pytest.skip("needs a checkout")
    ts = np.linspace(0, 3, 61)
    known = {
        "ts": ts,
        "ys": np.stack([np.cos(ts), -np.sin(ts)], axis=1),
        "model": pn.NeuralODE(pn.MLP((2, 8, 2)), engine="julia"),
    }
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        try:
            exec(block, known)  # noqa: S102 - our own page
        except pn.EngineError as error:
            if "which diffeqpy needs" not in str(error):
                raise
    assert known["states"].shape == (61, 2) and len(known["groups"]) == 4
    assert known["solution"].u[-1] == pytest.approx(0.5 * np.exp(-1), rel=1e-8)
