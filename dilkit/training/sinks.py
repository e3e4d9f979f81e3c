"""Where the rows, pictures and recipe of a run may go besides its own files: TensorBoard, Weights & Biases,
Trackio and MLflow, each by its own library (`pip install dilkit[tensorboard]`, `[wandb]`, ...), or a sink of
yours. Where their servers are, and whether they are used at all, is for the library's own settings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from dilkit.errors import UsageError
from dilkit.recipe.layers import dotted, leaves, read_layer_file
from dilkit.registry import Registry, import_named


class Sink(Protocol):
    """The plug-in point: `log.to: [package.module:Class]` calls `Class(run_folder)`, in which `recipe.yaml`
    lies, then `add` for each row.

    A row is one of metrics.jsonl: `step`, `loss`, `val/<label>` ..., all numbers. A sink may also have
    `picture(step, label, path)`, called with a PNG of input, output and clean image at every validation,
    and `close()`, called at the end of the run.
    """

    def add(self, row: Mapping[str, Any]) -> None: ...


def _library(name: str, extra: str) -> Any:
    """Raises UsageError where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise UsageError(
            f"{extra} is not installed", where="log.to", remedy=f"pip install 'dilkit[{extra}]'"
        ) from None


def _recipe(out: Path) -> dict[str, Any]:
    path = out / "recipe.yaml"
    return read_layer_file(path).tree if path.is_file() else {}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}


class TensorBoard:
    """Files under RUN/tensorboard."""

    def __init__(self, out: Path) -> None:
        _library("tensorboard", "tensorboard")
        self._writer: Any = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter(
            str(out / "tensorboard")
        )
        if (out / "recipe.yaml").is_file():
            self._writer.add_text("recipe", f"```\n{(out / 'recipe.yaml').read_text()}\n```")

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def picture(self, step: int, label: str, path: Path) -> None:
        from PIL import Image

        self._writer.add_image(label, np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `dilkit` (or $WANDB_PROJECT), named after its folder; WANDB_MODE=offline keeps it
    in RUN/wandb. A run that is resumed goes on there too."""

    def __init__(self, out: Path) -> None:
        self._wandb = _library("wandb", "wandb")
        mark = out / "wandb" / "id"
        mark.parent.mkdir(exist_ok=True)
        if not mark.is_file():
            mark.write_text(uuid4().hex[:8])
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dilkit"), name=out.name, dir=str(out),
            config=_recipe(out), id=mark.read_text(), resume="allow",
        )  # fmt: skip

    def add(self, row: Mapping[str, Any]) -> None:
        self._run.log(_numbers(row), step=row["step"])

    def picture(self, step: int, label: str, path: Path) -> None:
        self._run.log({f"pictures/{label}": self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of the project `dilkit` in Trackio's own folder ($TRACKIO_DIR), named after the run's folder."""

    def __init__(self, out: Path) -> None:
        self._trackio = _library("trackio", "trackio")
        self._run = self._trackio.init(
            project="dilkit", name=out.name, config=_recipe(out), resume="allow", embed=False
        )

    def add(self, row: Mapping[str, Any]) -> None:
        self._run.log(_numbers(row), step=row["step"])

    def picture(self, step: int, label: str, path: Path) -> None:
        self._run.log({f"pictures/{label}": self._trackio.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment `dilkit`, named after the run's folder, at $MLFLOW_TRACKING_URI, or in
    RUN/mlflow.db (`mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db`). MLflow's names have no brackets
    and arrows: `val/awgn(5)>>clip` is `val/awgn.5.clip` there."""

    def __init__(self, out: Path) -> None:
        mlflow = _library("mlflow", "mlflow")
        own, files = f"sqlite:///{out.absolute() / 'mlflow.db'}", (out / "mlruns").absolute().as_uri()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri or own)
        found = self._client.get_experiment_by_name("dilkit")
        made = found is None and self._client.create_experiment("dilkit", None if uri else files)
        experiment = found.experiment_id if found else made
        self._id = self._client.create_run(experiment, run_name=out.name).info.run_id
        for key, value in leaves(_recipe(out)):
            self._client.log_param(self._id, _plain(dotted(key)), str(value)[:500])
        if (out / "recipe.yaml").is_file():
            self._client.log_artifact(self._id, str(out / "recipe.yaml"))

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in _numbers(row).items():
            self._client.log_metric(self._id, _plain(name), value, step=row["step"])

    def picture(self, step: int, label: str, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), f"pictures/step-{step:08d}")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _plain(name: str) -> str:
    return re.sub(r"[^\w/ -]+", ".", name).strip(".")


def require_sink(name: str, kind: object) -> None:
    """Raises UsageError where it is not a class with a method `add`."""
    if not _is_sink(kind):
        raise UsageError(
            f"{name} is not a sink, and has not been called",
            where="log.to",
            found=f"a {type(kind).__name__}",
            expected="a class with a method add(row), made as Class(run_folder)",
            remedy="--trust-code (trust_code=True) also calls functions that make a sink",
        )


def _is_sink(kind: object) -> bool:
    return isinstance(kind, type) and callable(getattr(kind, "add", None))


SINKS: Registry[Any] = Registry(
    "sink",
    own={
        "tensorboard": "dilkit.training.sinks:TensorBoard",
        "wandb": "dilkit.training.sinks:WeightsAndBiases",
        "trackio": "dilkit.training.sinks:Trackio",
        "mlflow": "dilkit.training.sinks:MLflow",
    },
    check=require_sink,
    is_one=_is_sink,
)
"""Where the rows of a run may go besides its own files, by name."""


def find_sinks(names: Sequence[str], *, trust_code: bool = False) -> list[Callable[[Path], Sink]]:
    """What makes each sink: one of `SINKS`, or any `package.module:Class`. No sink is made yet, but the
    module of a path is imported: names come from a recipe that the user runs, never from a checkpoint's.

    Raises:
        UsageError: an unknown name; or what is named is not a class with a method `add`, and `trust_code` is
            not given.
    """
    found = []
    for name in names:
        make = import_named(name, "log.to") if ":" in name else SINKS.get(name)
        if not trust_code:
            require_sink(name, make)
        found.append(make)
    return found
