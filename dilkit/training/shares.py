"""How the processes share a step. Torch is not imported here, so that this is refused before any starts."""

from __future__ import annotations

from collections.abc import Sequence

from dilkit.errors import UsageError
from dilkit.recipe.schema import Data


def refuse_unequal(data: Data, world: int, labels: Sequence[str] | None) -> None:
    """Check that `world` processes have equal shares of the batch, or (`spread: distortions`) of the labels,
    where those are known yet.

    Raises:
        UsageError: they have not.
    """
    if data.spread == "distortions":
        if labels is not None and len(labels) % world:
            raise UsageError(
                "the distortions cannot be shared equally",
                where="data.spread",
                found=f"{len(labels)} distortions",
                expected=f"a multiple of the {world} processes",
            )
    elif data.batch % world:
        raise UsageError(
            "the batch cannot be shared equally",
            where="data.batch",
            found=data.batch,
            expected=f"a multiple of the {world} processes",
        )
