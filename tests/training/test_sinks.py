"""Rows, pictures and the recipe reach each sink, in the local or offline mode of the real library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dilkit.errors import UsageError
from dilkit.training import train
from dilkit.training.sinks import SINKS


@pytest.fixture
def words(tiny: list[str], tmp_path: Path) -> list[str]:
    """A run with validation."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "images/0.png")
    return [*tiny, f"validate={{images: ['{tmp_path / 'images'}'], every: 6, crop: 32}}"]


class Album:
    """A sink of one's own that takes pictures."""

    seen: list[tuple] = []  # noqa: RUF012

    def __init__(self, out: Path) -> None:
        assert (out / "recipe.yaml").is_file()

    def add(self, row: dict) -> None:
        self.seen.append(("row", row["step"]))

    def picture(self, step: int, label: str, path: Path) -> None:
        self.seen.append((label, step, Image.open(path).size))

    def close(self) -> None:
        self.seen.append(("closed",))


def test_a_validation_keeps_input_output_and_clean_side_by_side(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Album, "seen", [])
    train([*words, f"log.to=[{__name__}:Album]"], tmp_path / "run")
    assert {path.name for path in (tmp_path / "run/pictures").iterdir()} == {
        "awgn(5)-clip.png", "awgn(15)-clip.png",
    }  # fmt: skip
    shown = [each for each in Album.seen if len(each) == 3]
    assert {(label, step) for label, step, _ in shown} == {
        (label, step) for label in ("awgn(5)>>clip", "awgn(15)>>clip") for step in (6, 12)
    }
    assert {size for *_, size in shown} == {(3 * 32 + 2 * 4, 32)}
    assert Album.seen[-1] == ("closed",)
    clean = np.asarray(Image.open(tmp_path / "run/pictures/awgn(5)-clip.png"))[:, -32:]
    assert (clean == np.asarray(Image.open(tmp_path / "images/0.png"))[4:36]).all()
    train([*words, "validate.pictures=false"], tmp_path / "none")
    assert not (tmp_path / "none/pictures").exists()


def test_tensorboard_holds_scalars_pictures_and_the_recipe(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train([*words, "log.to=[tensorboard]"], tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "lr", "val/seen"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [3, 6, 9, 12]
    assert set(tags["images"]) == {"awgn(5)>>clip", "awgn(15)>>clip"}
    assert any("recipe" in tag for tag in tags["tensors"])


def test_wandb_keeps_an_offline_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train([*words, "log.to=[wandb]"], tmp_path / "run")
    (run,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    assert len(list(run.rglob("*.png"))) == 4


def test_trackio_keeps_a_local_run(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    train([*words, "log.to=[trackio]"], tmp_path / "run")
    assert [path for path in (tmp_path / "trackio").rglob("*") if path.name.startswith("dilkit")]


def test_mlflow_keeps_metrics_parameters_and_pictures(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train([*words, "log.to=[mlflow]"], tmp_path / "run")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run/mlflow.db'}")
    experiment = client.get_experiment_by_name("dilkit")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["optim.name"] == "adam"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [3, 6, 9, 12]
    assert "val/awgn.5.clip" in run.data.metrics
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"recipe.yaml", "pictures"}


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_sink_whose_library_is_missing_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UsageError) as caught:
        SINKS.get(name)(tmp_path)
    assert f"pip install 'dilkit[{name}]'" in str(caught.value)


def test_rows_are_shown_after_the_first_step_and_written_when_the_recipe_says(
    tiny: list[str], tmp_path: Path
) -> None:
    rows: list[dict] = []
    train([*tiny, "log.every=6"], tmp_path / "run", log=lambda row: rows.append(dict(row)))
    assert (
        rows[0]["step"] == 1 and {"loss", "lr", "passes_per_s", "left", "memory", "steps"} <= rows[0].keys()
    )
    written = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in written] == [6, 12]
