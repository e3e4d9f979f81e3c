"""A third party adds a metric, a protocol and an exporter, and each is held to its contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dilkit import evaluate
from dilkit.errors import DilkitError, UsageError
from dilkit.evaluation.extra_metrics import METRICS, Compare, Levels, Metric, check_metric
from dilkit.evaluation.protocols import PROTOCOLS, Protocol, check_protocol, find_protocol
from dilkit.inference.export import EXPORTERS, Exporter, Runner, check_exporter, export


def mean_error() -> Compare:
    return lambda a, b: float(np.abs(a - b).mean())


def test_a_metric_of_ones_own_is_a_column() -> None:
    metric = Metric("mean_error", mean_error, higher_is_better=False)
    check_metric(metric)
    METRICS.add(metric)
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    rows = evaluate("input", {"a": image}, "awgn(20)", clip=True, quantize=False, metrics=["mean_error"])
    assert 10 < rows["mean_error"].iloc[0] < 20 and "input_mean_error" in rows


def test_a_metric_that_breaks_its_contract_is_named() -> None:
    def careless(a: Levels, b: Levels) -> float:
        a += 1
        return float(np.abs(a - b).mean())

    counter = iter(range(100))
    broken = {
        "worse than strong": Metric("upside_down", mean_error),
        "returns no number": Metric("nothing", lambda: lambda a, b: float("nan")),
        "two values": Metric("fickle", lambda: lambda a, b: -float(np.abs(a - b).mean()) + next(counter)),
        "changes the images": Metric("careless", lambda: careless, higher_is_better=False),
    }
    for message, metric in broken.items():
        with pytest.raises(UsageError, match=message):
            check_metric(metric)
    for value, message in (("psnr", "taken"), ("not a name", "not a metric")):
        with pytest.raises(UsageError, match=message):
            METRICS.add(Metric(value, mean_error))
    with pytest.raises(UsageError, match="registered already"):
        METRICS.add(Metric("lpips", mean_error))


def test_metrics_that_ship_keep_the_contract() -> None:
    pytest.importorskip("torchmetrics")
    check_metric(METRICS.get("ms_ssim"))


def test_a_protocol_of_ones_own_is_found_by_name() -> None:
    mine = Protocol(name="mine-1", summary="mine", source="here", sets=("Set5",), distort="awgn(5)")
    check_protocol(mine)
    PROTOCOLS.add(mine, origin="a test")
    assert find_protocol("mine-1") is mine
    with pytest.raises(UsageError, match="not a protocol"):
        PROTOCOLS.add({"name": "x"}, "x")  # type: ignore[arg-type]


def test_an_exporter_of_ones_own_writes_by_its_ending(tmp_path: Path) -> None:
    def write(net: nn.Module, path: Path, about: Mapping[str, str]) -> Runner:
        torch.save({"weights": net.state_dict(), "about": dict(about)}, path)
        return net

    exporter = Exporter("weights-and-words", (".words",), write)
    check_exporter(exporter, tmp_path)
    EXPORTERS.add(exporter)
    assert export(nn.Conv2d(3, 3, 3, padding=1), tmp_path / "net.words") == 0
    assert torch.load(tmp_path / "net.words", weights_only=True)["about"]["trained_on"] == "not known"

    wrong = Exporter("wrong", (".wrong",), lambda net, path, about: path.touch() or (lambda x: x + 1))
    with pytest.raises(DilkitError, match="does not do what the net does"):
        check_exporter(wrong, tmp_path)
    with pytest.raises(DilkitError, match="wrote no file"):
        check_exporter(Exporter("none", (".none",), lambda net, path, about: net), tmp_path)
