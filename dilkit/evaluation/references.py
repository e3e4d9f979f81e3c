"""Numbers that papers print, to stand beside one's own: what is compared with, and nothing that was run here.

They were measured by their authors, on their own inputs; a table shows them apart and names the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dilkit.distortions import confounder_set
from dilkit.distortions.novelty import GIVEN
from dilkit.errors import UsageError, nearest


@dataclass(frozen=True)
class Printed:
    """One net of a paper under one protocol.

    Attributes:
        key: the group that `--reference` names: `paper` (the paper of Distortion-Invariant Learning), `idf`
            (nets trained on sigma 15 alone), `classic` (denoisers that saw the degrees they are tested on).
        net: as the source calls it.
        values: PSNR in dB by set and label of the distortion (`given` for real images).
    """

    key: str
    net: str
    protocol: str
    source: str
    note: str
    values: dict[str, dict[str, float]]

    @property
    def title(self) -> str:
        return f"{self.net} [{self.key}]"


@cache
def all_references() -> tuple[Printed, ...]:
    """Every printed number that ships with dilkit."""
    text = files("dilkit.evaluation").joinpath("references.json").read_text(encoding="utf-8")
    held: list[dict[str, Any]] = json.loads(text)
    return tuple(Printed(**{**each, "values": _by_label(each["values"])}) for each in held)


def _by_label(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Distortions are kept as expressions, since the label of a long one may change."""
    labels = {text: text for own in values.values() for text in own}
    labels = {
        text: text if text == GIVEN else confounder_set(text).words[0].named("").label for text in labels
    }
    return {name: {labels[text]: psnr for text, psnr in own.items()} for name, own in values.items()}


def find_references(
    key: str, sets: Iterable[str], distortions: Iterable[str], protocol: str | None = None
) -> tuple[Printed, ...]:
    """Those of a group that have a number for one of the sets under one of the distortions.

    Args:
        key: the group, or `all`.
        protocol: only those of this protocol; by default of any (other settings may differ: say so).

    Raises:
        UsageError: no such group.
    """
    keys = tuple(dict.fromkeys(reference.key for reference in all_references()))
    if key != "all" and key not in keys:
        raise UsageError(
            "unknown group of printed numbers", found=key, expected=", ".join((*keys, "all")),
            nearest=nearest(key, keys),
        )  # fmt: skip
    names, labels = set(sets), set(distortions)
    return tuple(
        reference
        for reference in all_references()
        if key in (reference.key, "all")
        and protocol in (None, reference.protocol)
        and any(name in names and labels & set(values) for name, values in reference.values.items())
    )


def reference_notes(references: Sequence[Printed]) -> list[str]:
    """One line per source: what was printed where, and that it was not measured here."""
    said = dict.fromkeys(
        f"[{r.key}] {r.source}: {r.note}; protocol {r.protocol}; printed there, not measured here"
        for r in references
    )
    return list(said)
