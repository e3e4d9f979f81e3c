"""No recipe may train on, or select a checkpoint by, a distortion its task is tested on."""

from __future__ import annotations

from typing import Any

from dilkit.errors import UsageError
from dilkit.recipe.schema import Recipe


def refuse_leaks(recipe: Recipe, seen: Any = None) -> None:
    """Compare what is trained on (`seen`: words, or the recipe's own `data.distort`), held out and tested on.

    Raises:
        UsageError: two of the three share a distortion.
    """
    held_out = recipe.validation.held_out if recipe.validation is not None else None
    given = (seen if seen is not None else recipe.data.distort, held_out, recipe.test.distort)
    if sum(distort is not None for distort in given) < 2:
        return
    trained, held, tested = map(_hashes, given)
    if both := tested.keys() & held.keys():
        raise UsageError(
            "the held-out distortion is one the task is tested on: it would select on the test",
            where="validate.held_out",
            found=", ".join(tested[h] for h in both),
            expected="a distortion outside test.distort",
        )
    for key, others in (("validate.held_out", held), ("test.distort", tested)):
        if both := trained.keys() & others.keys():
            raise UsageError(
                "a distortion is declared unseen and trained on",
                where=key,
                found=", ".join(others[h] for h in both),
            )


def _hashes(distort: Any) -> dict[str, str]:
    """Hash -> label."""
    if distort is None:
        return {}
    from dilkit.distortions import confounder_set

    return {word.hash: word.label for word in confounder_set(distort)}
