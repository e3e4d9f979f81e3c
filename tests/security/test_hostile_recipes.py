"""A recipe runs only what the user's own command line allows, and is read in bounded time.

`DILKIT_FUZZ=5000 pytest tests/security/test_hostile_recipes.py` tries as many.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from dilkit.cli.app import main
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.errors import DilkitError, UsageError
from dilkit.recipe import compose
from dilkit.recipe.layers import read_layer
from dilkit.training.dry_run import dry_run
from dilkit.training.run import train

TINY = ["demo", "synthetic", "steps=1", "data.crop=16", "data.batch=1"]
CALLED = [
    ["model.name=os:system", "model.args.command=touch mark"],
    ["model.name=subprocess:Popen", "model.args.args=[touch, mark]"],
    ["model.name=builtins:exec", "model.args.source=open('mark', 'w')"],
    ["log.to=[os:mkdir]"],
    ["log.to=[subprocess:Popen]"],
]


@pytest.mark.parametrize("words", CALLED, ids=lambda words: words[0])
def test_what_is_no_net_or_sink_is_never_called(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    composed = compose([*TINY, *words])
    for run in (lambda: dry_run(composed), lambda: train(composed, tmp_path / "run")):
        with pytest.raises(UsageError, match="has not been called") as caught:
            run()
        assert "--trust-code" in str(caught.value.remedy)
    assert not (tmp_path / "mark").exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_function_that_makes_a_net_needs_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "factory_module.py").write_text(
        "from torch import nn\ndef make(channels):\n    return nn.Conv2d(channels, channels, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["train", *TINY, "model.name=factory_module:make", "model.args.channels=3", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["dilkit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--trust-code" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["dilkit", *words, "--trust-code"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "parameters" in capsys.readouterr().out


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 8)}]\n" for i in range(12)
)
YAML = {
    "alias bomb": (BOMB, "too large"),
    "python object": ("a: !!python/object/apply:os.system [touch mark]", "constructs nothing"),
    "python name": ("a: !!python/name:os.system", "constructs nothing"),
    "own tag": ("a: !thing 1", "constructs nothing"),
    "deep": ("a: " + "[" * 5000, "too deeply"),
    "long": ("a: [" + "1," * 30_000 + "]", "too large"),
    "huge": ("#" * 2_000_000, "too large"),
    "digits": ("a: " + "9" * 6000, "not YAML"),
    "date": ("a: 2020-13-45", "not YAML"),
    "nul": ("a: \0", "not YAML"),
    "circle": ("a: &a\n  <<: *a\n", "not YAML"),
}


@pytest.mark.parametrize("kind", YAML)
def test_hostile_yaml_is_refused_at_once(kind: str) -> None:
    text, said = YAML[kind]
    began = time.process_time()
    with pytest.raises(UsageError, match=said):
        read_layer(text, "hostile.yaml")
    assert time.process_time() - began < 10  # some take 0.3 s; written out, the bomb has 10^12 values


def test_a_file_that_never_ends_is_read_only_so_far(tmp_path: Path) -> None:
    file = tmp_path / "endless.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 34)
    with pytest.raises(UsageError, match="too large"):
        compose([str(file)])


@settings(max_examples=int(os.environ.get("DILKIT_FUZZ", "150")), deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab:&*!<>[]{}-,#|?%@`'\"\\\n 1.e0~")), max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(UsageError):
        read_layer(text, "fuzz.yaml")


_KEYS = st.sampled_from(
    ["model", "model.name", "model.width", "data", "data.crop", "optim.lr", "optim.betas", "loss",
     "objective", "objective.inner", "validate", "validate.held_out", "test.distort",
     "log.to", "hardware.device", "steps",
     "extends", "objectives", "init", "x", "data.sources", "optim.schedule"]
)  # fmt: skip
_VALUES = st.sampled_from(
    ["dncnn", "os:system", "[1, 2]", "{a: 1}", "-1", "1e400", ".nan", "null", "''", "[[[]]]", "true", "{}",
     "9" * 5000, "\x1b[31m", "!!python/name:os.system", "awgn(", "*a", "[", "../x.yaml", "erm"]
)  # fmt: skip


@settings(max_examples=int(os.environ.get("DILKIT_FUZZ", "150")), deadline=None)
@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=3))
def test_no_override_does_more_than_be_refused(pairs: list[tuple[str, str]]) -> None:
    try:
        compose(["demo", *(f"{key}={value}" for key, value in pairs)])
    except DilkitError as error:
        assert "\x1b" not in str(error)
