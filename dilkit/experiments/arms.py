"""The arms of a comparison: what each changes in the recipe that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import UsageError, nearest
from dilkit.objectives import OBJECTIVES

MODIFIERS: dict[str, tuple[str, ...]] = {
    "equivariant": ("model.equivariant=true",),
    "scalewrapper": ("model.equivariant=scale",),
    "biasfree": ("model.bias=false",),
    "noskip": ("model.skip=false",),
    "ema": ("ema=0.999",),
    "independent": ("data.pairing=independent",),
    "swa": ("swa=0.25",),
    "swad": ("swad=true",),
    "sam": ("objective.sam=0.05",),
    "dropout": ("model.dropout=0.5",),
    "masked": ("model.masked=[0.8, 0.9]",),
    "noisemap": ("model.noise_map=true",),
    "clipmaps": ("model.clip_maps=signed",),
    "orbit": ("data.orbit.name=contrast",),
    "scaleorbit": ("data.orbit.name=scale",),
}
"""What may follow an objective's name: `dil_sf+equivariant+ema`."""

SPECIALIST, ORACLE = "specialist", "oracle"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: of the arm in the tables.
        words: what it adds to the words of the recipe.
        member: of a family of specialists, the label of the one distortion it is trained on.
    """

    name: str
    words: tuple[str, ...]
    member: str = ""


def parse_arms(texts: Sequence[str], trained: ConfounderSet, tested: ConfounderSet) -> list[Arm]:
    """Arms from their names.

    Args:
        texts: an objective with modifiers (`dil_sf+equivariant`); `specialist` (ERM on one distortion alone,
            for each); `oracle` (ERM on every distortion, those of the test included); or, for anything else,
            `NAME: word word` with words as `dilkit train` takes them.
        trained, tested: the distortions of the recipe and of the test.

    Raises:
        UsageError: an unknown name, or an arm given twice.
    """
    arms = [arm for text in texts for arm in _parse(text.strip(), trained, tested)]
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise UsageError("an arm is given twice", found=name)
    if not arms:
        raise UsageError("there is no arm to compare", remedy="for example --arms erm,dil_sf,lookahead")
    return arms


def _parse(text: str, trained: ConfounderSet, tested: ConfounderSet) -> list[Arm]:
    if ":" in text:
        name, _, words = text.partition(":")
        return [Arm(_checked(name.strip()), tuple(words.split()))]
    first, *modifiers = text.split("+")
    changes: list[str] = []
    for modifier in modifiers:
        if modifier not in MODIFIERS:
            raise UsageError(
                f"unknown modifier {modifier!r} of an arm",
                where=text,
                expected=", ".join(MODIFIERS),
                nearest=nearest(modifier, MODIFIERS),
            )
        changes += MODIFIERS[modifier]
    keys = [word.partition("=")[0] for word in changes]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UsageError("two modifiers of an arm set one key", where=text, found=twice[0])
    if first == SPECIALIST:
        return [_specialist(text, label, tuple(changes)) for label in trained.labels]
    if first == ORACLE:
        return [Arm(text, ("objective.name=erm", *oracle_words(trained, tested), *changes))]
    if first not in OBJECTIVES:
        known = [*OBJECTIVES, SPECIALIST, ORACLE]
        raise UsageError(
            f"unknown arm {first!r}",
            expected=", ".join(known),
            nearest=nearest(first, known),
            remedy="or describe it: --arm 'NAME: word word key=value'",
        )
    return [Arm(text, (f"objective.name={first}", *OBJECTIVES.get(first).words, *changes))]


def oracle_words(trained: ConfounderSet, tested: ConfounderSet) -> tuple[str, ...]:
    """Train on everything: the ceiling, not a competitor; the recipe's own test is what it trains on."""
    both = confounder_set([trained, tested])
    return (f"data.distort={both}", "test.distort=null")


def _specialist(text: str, label: str, changes: tuple[str, ...]) -> Arm:
    words = ("objective.name=erm", f"data.labels=['{label}']", *changes)
    return Arm(f"{text}[{label}]", words, label)


def _checked(name: str) -> str:
    if not name or "/" in name or name.startswith("."):
        raise UsageError("an arm needs a name that a folder can have", found=name)
    return name
