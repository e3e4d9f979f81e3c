"""A run can be watched: on a terminal of any usual width, in a notebook, and line by line elsewhere."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType

import pytest
from dilkit.cli import progress as drawing
from rich.console import Console

import dilkit

ROW = {
    "step": 50, "steps": 200, "loss": 0.0312, "lr": 1e-3, "passes": 200, "seconds": 10.0,
    "passes_per_s": 20.0, "left": 30.0, "memory": 412_000_000,
}  # fmt: skip
DECIBELS = {f"val/awgn({k})>>clip": 30.0 - k for k in (5, 10, 15, 20)}


def watch(progress: dilkit.TrainProgress) -> None:
    with progress:
        progress({**ROW, "step": 1, "loss": 0.5, "left": 60.0})
        progress({**ROW, **DECIBELS, "val/seen": 17.5, "val/select": 17.5})
        progress({"step": 100, "validated": (3, 8)})
        progress({**ROW, "step": 100, **{k: v + 0.25 for k, v in DECIBELS.items()}, "val/select": 17.75})


@pytest.mark.parametrize("width", [80, 120])
def test_all_that_is_promised_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, height=30, force_terminal=True, _environ={})
    monkeypatch.setattr(drawing, "_console", lambda: console)
    watch(dilkit.TrainProgress())
    plain = Console(file=io.StringIO(), width=width, record=True)
    progress = dilkit.TrainProgress()
    watch(progress)
    plain.print(progress._drawn())
    lines = plain.export_text().splitlines()
    text = "\n".join(lines)
    for said in (
        "50 %", "step 100/200", "0:30 left", "loss 0.03120", "lr 1.0e-03", "passes/s 20.0", "412 MB",
        "awgn(5)>>clip 25.25 dB +0.25", "awgn(20)>>clip 10.25 dB +0.25", "█",
    ):  # fmt: skip
        assert said in text, said
    assert max(map(len, lines)) <= width and "…" not in text
    assert "step 100/200" in out.getvalue()
    plain.print(progress._drawn("validating 3/8"))
    assert "validating 3/8" in plain.export_text()


def test_a_notebook_shows_the_view_and_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/html"])

    module = ModuleType("IPython.display")
    module.display = lambda data, raw, display_id: Handle()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(drawing, "_console", lambda: Console(force_jupyter=True, file=io.StringIO()))
    (tmp_path / "a.png").write_bytes(b"picture")
    progress = dilkit.TrainProgress()
    watch(progress)
    progress({"step": 100, "pictures": {"awgn(5)>>clip": str(tmp_path / "a.png")}})
    assert "step 100/200" in shown[-2] and shown[-2].startswith("<pre>")
    assert "data:image/png;base64,cGljdHVyZQ==" in shown[-1] and "awgn(5)&gt;&gt;clip" in shown[-1]
