"""Orders that depend on (seed, step) alone: the same on every rank, machine and restart."""

from __future__ import annotations

from hashlib import blake2b


def shuffled(n: int, *, seed: int, step: int, purpose: str = "order") -> list[int]:
    """A permutation of 0 .. n-1, fresh for each (seed, step, purpose)."""

    def key(i: int) -> bytes:
        return blake2b(f"{purpose}:{seed}:{step}:{i}".encode(), digest_size=16).digest()

    return sorted(range(n), key=key)
