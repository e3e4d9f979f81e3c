"""What docs/distortions.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dilkit.distortions import REGISTRY, parse
from dilkit.distortions.symmetry import GROUPS
from dilkit.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "distortions.md"
TEXT = PAGE.read_text(encoding="utf-8")


SYMMETRIES = TEXT[TEXT.index("## Symmetries") : TEXT.index("## The common corruptions")]


@pytest.mark.parametrize("row", re.findall(r"^\| (`.+?`.*?) \|", TEXT.replace(SYMMETRIES, ""), re.M))
def test_every_expression_of_the_table_parses(row):
    for expression in re.findall(r"`([^`]+)`", row):
        parse(expression.replace("\\|", "|"))


def test_every_group_is_explained():
    rows = re.findall(r"^\| (`.+?`.*?) \|", SYMMETRIES, re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(GROUPS)


def test_the_examples_run():
    blocks = re.findall(r"```python\n(.+?)```", TEXT, re.S)
    assert len(blocks) == 3
    known = {"image": np.random.default_rng(0).random((96, 96, 3), dtype=np.float32)}
    try:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), known)
        assert np.array_equal(known["noisy"][64:96, 64:96], known["crop"])
        assert str(parse("darken[0.5, 1]")) == "darken[0.5, 1]"
    finally:
        REGISTRY._entries.pop("darken", None)


def test_the_error_is_the_one_shown():
    with pytest.raises(UsageError) as caught:
        parse("gaussian_blur(2) >> awng(25)")
    shown = "\n".join(f"    {line}" for line in f"dilkit: {caught.value}".split("\n")[:4])
    assert shown in TEXT
