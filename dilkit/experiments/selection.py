"""How hyper-parameters are chosen: the rules by name, and random search with as many trials for every arm.

A rule looks at what an honest practitioner has: distortions that were trained on, or one held out of training
and test, on images other than the test's. The oracle looks at the test itself; a table names it as such.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, get_args

from dilkit.distortions import ConfounderSet, confounder_set, pixel_hash
from dilkit.distortions.novelty import novelty
from dilkit.errors import UsageError, nearest
from dilkit.evaluation.testsets import Data, find_images
from dilkit.objectives import Objective

Rule = Literal["last", "seen", "held_out", "leave_one_out", "oracle"]

RULES: Mapping[Rule, str] = {
    "last": "nothing is selected: the settings of the recipe, the last checkpoint",
    "seen": "highest mean PSNR on the training distortions of the selection images",
    "held_out": "highest mean PSNR on a held-out distortion of the selection images",
    "leave_one_out": "highest mean PSNR on each training distortion of nets trained without it",
    "oracle": "ORACLE: highest mean PSNR on the test itself; a ceiling, not a result",
}
"""Rule -> what it does, as tables say it."""


@dataclass(frozen=True)
class Selection:
    """A rule, and what it looks at.

    Attributes:
        images: clean images to select on; the rule `oracle` takes the test's.
        held_out: the distortions of the rule `held_out`.
    """

    rule: Rule = "seen"
    images: Data | None = None
    held_out: str | None = None

    @property
    def story(self) -> str:
        """The rule in words."""
        held = f" ({self.held_out})" if self.rule == "held_out" else ""
        return RULES[self.rule] + held


def check_rule(selection: Selection, candidates: int, trained: ConfounderSet, tested: ConfounderSet) -> None:
    """Refuse a rule that cannot choose, or that would choose on the test without saying so.

    Raises:
        UsageError: an unknown rule; a choice without images or without a held-out distortion; a held-out
            distortion that is trained or tested on; one training distortion to leave out.
    """
    rule = selection.rule
    if rule not in RULES:
        raise UsageError(
            f"unknown selection rule {rule!r}",
            where="rule",
            expected=", ".join(get_args(Rule)),
            nearest=nearest(rule, RULES),
        )
    if candidates == 0:
        return
    if rule == "last" and candidates > 1:
        raise UsageError(
            "the rule `last` chooses nothing, and there is something to choose",
            where="rule",
            found=f"{candidates} settings of every arm",
            remedy="leave the sweep out, or take --rule seen",
        )
    if rule not in ("oracle", "last") and selection.images is None:
        raise UsageError(
            "a sweep needs images to choose the learning rate on", where="select", remedy="give --select DIR"
        )
    if rule == "leave_one_out" and len(trained) < 2:
        raise UsageError("of one training distortion, none can be left out", where="rule", found=str(trained))
    if rule != "held_out":
        return
    if selection.held_out is None:
        raise UsageError(
            "this rule needs a distortion to hold out", where="held_out", remedy="--held-out EXPR"
        )
    for word in confounder_set(selection.held_out):
        for others, what in ((trained, "trained"), (tested, "tested")):
            if novelty(word, others) == "seen":
                raise UsageError(
                    f"the held-out distortion is {what} on",
                    where="held_out",
                    found=word.label,
                    expected="another",
                )


def check_selection(select: Data, test: Data) -> None:
    """Refuse to choose settings on images of the test.

    Raises:
        UsageError: an image is in both, pixel by pixel.
    """
    tested = {pixel_hash(image.read()) for image in find_images(test)}
    both = [image.name for image in find_images(select) if pixel_hash(image.read()) in tested]
    if both:
        raise UsageError(
            "the learning rate would be chosen on images of the test",
            where="select",
            found=", ".join(both[:5]) + (" ..." if len(both) > 5 else ""),
            expected="images that are not tested on",
            remedy="give --select other images than --data",
        )


def search_space(objective: type[Objective], lr: float, n: int) -> dict[str, str]:
    """By key of the recipe, the range of a random search.

    The outer rate is searched from a tenth of the recipe's to ten times it; of a chain, whose outer Adam
    ignores the length of theta - phi_n, to n times that. The rest is the objective's own
    (`Objective.search`).
    """
    high = 10 * lr * (n if objective.chain else 1)
    return {"optim.lr": f"log({lr / 10:g}, {high:g})", **objective.search}


def drawn(space: Mapping[str, str], trial: int, seed: int = 0) -> dict[str, Any]:
    """The settings of a trial. Trial 0 changes nothing; two arms draw alike from a key and range they
    share."""
    if trial == 0:
        return {}
    return {key: draw_from(text, _uniform(key, trial, seed), key) for key, text in space.items()}


_RANGE = re.compile(r"(log|uniform|choice)\((.*)\)")


def draw_from(text: str, u: float, key: str = "range") -> Any:
    """The point u of [0, 1) in a range: `log(a, b)`, `uniform(a, b)`, `choice(a, b, ...)`.

    Raises:
        UsageError: not a range.
    """
    found = _RANGE.fullmatch(text.strip())
    parts = [part.strip() for part in found[2].split(",")] if found else []
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if found and found[1] == "choice" and all(parts):
        chosen = parts[int(u * len(parts))]
        return (int(chosen) if re.fullmatch(r"-?\d+", chosen) else float(chosen)) if numbers else chosen
    if found and len(numbers) == 2 and numbers[0] < numbers[1] and (found[1] == "uniform" or numbers[0] > 0):
        low, high = numbers
        if found[1] == "uniform":
            return low + u * (high - low)
        return float(f"{math.exp(math.log(low) + u * (math.log(high) - math.log(low))):.4g}")
    raise UsageError(
        "not a range of a search",
        where=key,
        found=text,
        expected="log(a, b), uniform(a, b) or choice(a, b, ...)",
    )


def _uniform(key: str, trial: int, seed: int) -> float:
    digest = blake2b(f"{key}\0{trial}\0{seed}".encode(), digest_size=8, person=b"dilkit-search").digest()
    return int.from_bytes(digest) / 2**64


def all_but(labels: Sequence[str], label: str) -> str:
    """The word that trains on all distortions but one."""
    kept = ", ".join(f"'{each}'" for each in labels if each != label)
    return f"data.labels=[{kept}]"
