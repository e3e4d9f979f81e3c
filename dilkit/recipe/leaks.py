"""No recipe may train on, or select a checkpoint by, a distortion its task is tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dilkit.errors import UsageError
from dilkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from dilkit.distortions import ConfounderSet


def refuse_leaks(recipe: Recipe, seen: Any = None) -> None:
    """Compare what is trained on (`seen`: words, or the recipe's own `data.distort`), held out and tested on.

    Two distortions are the same by the rule of evaluation: `clip` and `quantize` do not count, and a law of
    chance has every value it can draw.

    Raises:
        UsageError: two of the three share a distortion.
    """
    held_out = recipe.validation.held_out if recipe.validation is not None else None
    given = (seen if seen is not None else recipe.data.distort, held_out, recipe.test.distort)
    if sum(distort is not None for distort in given) < 2:
        return
    trained, held, tested = map(_words, given)
    if both := [*_met(tested, held), *_met(held, tested)]:
        raise UsageError(
            "the held-out distortion is one the task is tested on: it would select on the test",
            where="validate.held_out",
            found=", ".join(dict.fromkeys(both)),
            expected="a distortion outside test.distort",
        )
    for key, others in (("validate.held_out", held), ("test.distort", tested)):
        if both := _met(others, trained):
            raise UsageError(
                "a distortion is declared unseen and trained on",
                where=key,
                found=", ".join(both),
                expected=f"none that is among {trained}",
            )


def _words(distort: Any) -> ConfounderSet | None:
    if distort is None:
        return None
    from dilkit.distortions import confounder_set

    return confounder_set(distort)


def _met(words: ConfounderSet | None, others: ConfounderSet | None) -> list[str]:
    """The labels of those among `words` that `others` have or can draw, by the rule of evaluation."""
    if words is None or others is None:
        return []
    from dilkit.distortions.novelty import novelty

    same = {word.hash for word in others}
    return [word.label for word in words if word.hash in same or novelty(word, others) == "seen"]
