from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dilkit.checkpoint import write_atomically
from dilkit.errors import DilkitError, UsageError
from dilkit.recipe import compose
from dilkit.training import load, train


class Stopped(Exception):
    pass


def stop_at(step: int):
    def tell(row) -> None:
        if row.get("step") == step:
            raise Stopped

    return tell


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {k: t.clone() for k, t in load_file(run / "checkpoints" / "last.safetensors").items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("objective", ["erm", "dil_sf", "lookahead"])
def test_a_run_learns_and_records_itself(objective: str, tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, f"objective={objective}", "model.skip=false", "steps=150", "log.every=30"]
    words += ["optim.lr=5e-3"]
    result = train(words, tmp_path / "run", command=["dilkit", "train"])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [30, 60, 90, 120, 150]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert (result.step, result.passes) == (150, 300)
    with (tmp_path / "run/metrics.csv").open() as table:
        assert [float(r["loss"]) for r in csv.DictReader(table)] == [r["loss"] for r in rows]
    assert compose([str(tmp_path / "run/recipe.yaml")]).recipe == compose(words).recipe
    assert json.loads((tmp_path / "run/run.json").read_text())["command"] == ["dilkit", "train"]


def test_one_file_is_enough_to_rebuild_the_net(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "model.equivariant=true", "objective=dil_sf"]
    result = train(words, tmp_path / "run")
    alone = tmp_path / "alone.safetensors"
    result.checkpoint.rename(alone)
    loaded = load(alone)
    assert loaded.recipe == compose(words).recipe
    assert not loaded.net.training
    assert loaded.metadata["step"] == 12
    assert loaded.metadata["labels"] == ["awgn(5) >> clip", "awgn(15) >> clip"] or loaded.metadata["labels"]
    assert same(dict(loaded.net.state_dict()), load_file(alone))
    assert loaded.net(torch.rand(1, 3, 20, 20)).shape == (1, 3, 20, 20)


@pytest.mark.parametrize("objective", ["erm", "dil_sf"])
def test_the_same_recipe_gives_the_same_weights_and_resuming_changes_nothing(
    objective: str, tiny: list[str], tmp_path: Path
) -> None:
    words = [*tiny, f"objective={objective}"]
    train(words, tmp_path / "a")
    with pytest.raises(Stopped):
        train(words, tmp_path / "b", log=stop_at(9))
    train(words, tmp_path / "b", resume=True)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    rows = [json.loads(line)["step"] for line in (tmp_path / "b/metrics.jsonl").read_text().splitlines()]
    assert rows == [3, 6, 9, 12], "rows after the checkpoint are written once"
    train([*words, "seed=1"], tmp_path / "c")
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_passes_are_the_budget(tiny: list[str], tmp_path: Path) -> None:
    tiny = [word for word in tiny if not word.startswith("steps=")]
    assert train([*tiny, "passes=9"], tmp_path / "run").step == 4
    with pytest.raises(UsageError, match="less than one step"):
        train([*tiny, "passes=1"], tmp_path / "other")


def test_a_damaged_newest_checkpoint_is_passed_over_loudly(tiny: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny, run)
    whole = weights(run)
    for path in sorted((run / "checkpoints").glob("step-00000012.*")):
        path.write_bytes(path.read_bytes()[:100])
    said = []
    train(tiny, run, resume=True, log=said.append)
    assert any("damaged" in row.get("note", "") for row in said)
    assert same(weights(run), whole)
    for path in (run / "checkpoints").glob("step-*.state"):
        path.write_bytes(b"")
    with pytest.raises(DilkitError, match="no whole checkpoint"):
        train(tiny, run, resume=True)


def test_a_changed_recipe_is_refused_on_resume(tiny: list[str], tmp_path: Path) -> None:
    train(tiny, tmp_path / "run")
    with pytest.raises(UsageError) as caught:
        train([*tiny, "optim.lr=0.5"], tmp_path / "run", resume=True)
    assert "optim.lr: 0.001 -> 0.5" in str(caught.value)


def test_an_output_that_exists_is_refused_and_kept(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty") as caught:
        train(tiny, tmp_path / "run")
    assert "--resume" in str(caught.value)
    assert (tmp_path / "run/mine.txt").read_text() == "precious"


def test_an_unwritable_output_is_refused(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(UsageError, match=r"needs a folder|cannot write"):
            train(tiny, out)


def test_a_missing_or_cut_store_is_refused(tiny: list[str], tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.h5"):
        train([*tiny, "data.store=no.h5"], tmp_path / "a")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(tiny_store.read_bytes()[:-3000])
    with pytest.raises(DilkitError, match=r"cut\.h5"):
        train([*tiny, f"data.store={cut}"], tmp_path / "b")
    assert not (tmp_path / "b").exists(), "nothing is made for a run that cannot start"


def test_a_confounder_the_store_has_not_is_refused(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such confounder"):
        train([*tiny, "data.labels=[awgn(7)]"], tmp_path / "run")


def test_a_checkpoint_of_another_model_is_refused(tiny: list[str], tmp_path: Path) -> None:
    from dilkit.checkpoint import load_weights
    from dilkit.models import build

    path = train(tiny, tmp_path / "run").checkpoint
    with pytest.raises(UsageError, match="another model"):
        load_weights(build("rrdb", width=4, blocks=1, growth=2), load_file(path), path)
    with pytest.raises(UsageError, match="misshapen"):
        load_weights(build("dncnn", depth=3, width=5, norm="none"), load_file(path), path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not one")
    with pytest.raises(UsageError, match="damaged"):
        load(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="no such checkpoint"):
        load(tmp_path / "y.safetensors")


def test_a_file_is_whole_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_weights_are_archived_every_so_many_steps(tiny: list[str], tmp_path: Path) -> None:
    train([*tiny, "checkpoint.every=2", "checkpoint.keep=1", "checkpoint.archive=4"], tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    names = [f"step-{step:08d}" for step in (4, 8, 12)]
    assert kept == [
        "last.safetensors",
        *[f"{n}.safetensors" for n in names[:2]],
        *[f"{names[2]}.{end}" for end in ("safetensors", "state")],
    ]
    assert load(tmp_path / f"run/checkpoints/{names[0]}.safetensors").metadata["step"] == 4


def test_training_from_images_equals_training_from_a_virtual_store(tiny_store: Path, tmp_path: Path) -> None:
    from dilkit.confounders.build import augment

    small = ["demo", "data.crop=16", "data.batch=2", "model.depth=3", "model.width=4", "steps=8"]
    store, images = tmp_path / "virtual.h5", str(tiny_store.parent / "*.png")
    augment(images, "awgn[5, 15] >> clip", store, tile=16, stride=16, seed=7, storage="virtual")
    train([*small, f"data.store={store}", "seed=7"], tmp_path / "a")
    live = [f"data.sources=[{images}]", "data.distort=awgn[5, 15] >> clip", "data.tile=16"]
    train([*small, *live, "seed=7"], tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_the_moving_average_is_kept_resumed_and_loaded(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "ema=0.8", "optim.lr=1e-2", "optim.schedule=constant"]
    train(words, tmp_path / "a")
    with pytest.raises(Stopped):
        train(words, tmp_path / "b", log=stop_at(9))
    train(words, tmp_path / "b", resume=True)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    path = tmp_path / "a/checkpoints/last.safetensors"
    auto, net = load(path), load(path, weights="net")
    assert (auto.metadata["weights"], net.metadata["weights"]) == ("ema", "net")
    assert not same(dict(auto.net.state_dict()), dict(net.net.state_dict()))
    train([*tiny, f"init={path}", "steps=1", "optim.lr=1e-9"], tmp_path / "c")
    start = dict(load(tmp_path / "c/checkpoints/last.safetensors").net.state_dict())
    assert all(torch.allclose(start[k], t, atol=1e-6) for k, t in net.net.state_dict().items())


HELD_OUT = ["validate.every=5", "validate.limit=2", "validate.held_out=poisson(1)"]


def test_validation_is_written_and_picks_the_best(tiny: list[str], tiny_store: Path, tmp_path: Path) -> None:
    images = f"validate.images=[{tiny_store.parent}/*.png]"
    train([*tiny, *HELD_OUT, images, "validate.select=held_out", "optim.lr=3e-2"], tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["val/held_out"] for row in rows if "val/held_out" in row}
    assert list(measured) == [5, 10, 12]
    best = load(tmp_path / "run/checkpoints/best.safetensors")
    assert best.metadata["step"] == max(measured, key=lambda step: measured[step])
    assert best.metadata["select"] == "held_out"
    assert all(0 < row["val/seen"] < 60 for row in rows if "val/seen" in row)


def test_validation_does_not_change_the_run(tiny: list[str], tiny_store: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path / "a")
    train([*tiny, *HELD_OUT, f"validate.images=[{tiny_store.parent}/*.png]"], tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_recipe_that_would_select_on_the_test_is_refused(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="select on the test"):
        compose([*tiny, *HELD_OUT, "test.distort=awgn[30, 40] | poisson(1)"])
    with pytest.raises(UsageError, match="unseen and trained on"):
        train([*tiny, "test.distort=awgn(5) >> clip"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Poisoned(torch.nn.Conv2d):
    """A net whose output is NaN at one step."""

    calls = 0

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        Poisoned.calls += self.training
        out = super().forward(y)
        return out * float("nan") if Poisoned.calls == 8 else out


POISON = [f"model={__name__}:Poisoned", "model.args={in_channels: 3, out_channels: 3, kernel_size: 1}"]


def test_a_nan_stops_the_run_and_leaves_what_made_it(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Poisoned, "calls", 0)
    with pytest.raises(DilkitError, match=r"awgn\(15\).* is not finite"):
        train([*tiny, *POISON], tmp_path / "run")
    kept = load_file(tmp_path / "run/nonfinite-step-3-rank-0.safetensors")
    assert {"net/weight", "view/awgn(15)>>clip", "target/awgn(15)>>clip"} <= kept.keys()
    assert json.loads((tmp_path / "run/nonfinite-step-3-rank-0.json").read_text())["step"] == 3


def test_a_nan_may_be_skipped(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Poisoned, "calls", 0)
    said = []
    result = train([*tiny, *POISON, "nonfinite=skip"], tmp_path / "run", log=said.append)
    assert result.step == 12
    assert all(t.isfinite().all() for t in weights(tmp_path / "run").values())
    assert sum("not finite" in row.get("note", "") for row in said) == 1


@pytest.mark.parametrize("setting", ["hardware.precision=bf16", "hardware.channels_last=true"])
def test_bf16_and_channels_last_train_as_float32_does(setting: str, tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "objective=dil_sf", "steps=30", "model.skip=false"]
    plain, other = train(words, tmp_path / "a"), train([*words, setting], tmp_path / "b")
    assert other.loss == pytest.approx(plain.loss, rel=0.02)
    assert all(t.dtype == torch.float32 for t in weights(tmp_path / "b").values())


def test_clipping_bounds_the_direction(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "optim.name=sgd", "optim.lr=1", "steps=1", "optim.clip=1e-3", "optim.schedule=constant"]
    from dilkit.models import from_config

    torch.manual_seed(0)
    start = from_config(compose(words).recipe.model).state_dict()
    train(words, tmp_path / "run")
    moved = torch.cat([(t - start[k]).flatten() for k, t in weights(tmp_path / "run").items()])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


class Collector:
    """A sink of one's own."""

    rows: list[dict] = []  # noqa: RUF012

    def __init__(self, out: Path) -> None:
        assert out.is_dir()

    def add(self, row: dict) -> None:
        self.rows.append(dict(row))


def test_metrics_go_to_a_sink_of_ones_own(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Collector, "rows", [])
    train([*tiny, f"log.to=[{__name__}:Collector]"], tmp_path / "run")
    assert [row["step"] for row in Collector.rows] == [3, 6, 9, 12]


def test_warm_up_and_schedules_follow_their_formulas() -> None:
    import math

    from dilkit.training.assemble import make_optimizer, make_schedule

    def rates(*words: str, steps: int = 20) -> list[float]:
        optim = compose(["demo", "optim.lr=1", *words]).recipe.optim
        optimizer = make_optimizer(optim, torch.nn.ParameterList([torch.zeros(1)]))
        schedule = make_schedule(optim, optimizer, steps, 3)
        seen = []
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return seen

    assert rates("optim.schedule=constant") == [1.0] * 20
    cosine = [(1 + math.cos(math.pi * t / 20)) / 2 for t in range(20)]
    assert rates("optim.schedule=cosine") == pytest.approx(cosine, abs=1e-12)
    stairs = rates("optim.schedule={name: step, every: 2, unit: epochs}")
    assert stairs == pytest.approx([0.5 ** (t // 6) for t in range(20)])
    warm = rates("optim.schedule={name: cosine, warmup: 4}")
    assert warm[:4] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5])
    assert warm[4:] == pytest.approx([(1 + math.cos(math.pi * t / 16)) / 2 for t in range(16)], abs=1e-12)


def test_a_budget_of_hours_ends_by_the_clock(tiny: list[str], tmp_path: Path) -> None:
    tiny = [word for word in tiny if not word.startswith("steps=")]
    words = [*tiny, "hours=0.0002", "optim.schedule=constant", "log.every=1"]
    result = train(words, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    *before, last = [row["seconds"] for row in rows]
    assert all(seconds < 0.72 for seconds in before) and last >= 0.72, (
        "the first step past the clock is the last"
    )
    assert not result.stopped
    with pytest.raises(UsageError, match="cosine"):
        compose([*tiny, "hours=1"])


@pytest.mark.parametrize("live", [False, True])
def test_workers_change_nothing(live: bool, tiny: list[str], tiny_store: Path, tmp_path: Path) -> None:
    data = [f"data.sources=[{tiny_store.parent}/*.png]", "data.distort=awgn[5, 15]"] if live else []
    tiny = [word for word in tiny if not (live and word.startswith("data.store="))]
    words = [*tiny, *data, "steps=5", "data.pairing=independent"]
    train(words, tmp_path / "a")
    train([*words, "data.workers=2"], tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
