"""The operators of the algebra, shared by kinds, words and confounder sets."""

from __future__ import annotations

from typing import Any


class Operators:
    """`a >> b` then, `a | b` or, `a - b` without, `a ** n` n times in sequence, `weight * a` in a mix."""

    __slots__ = ()
    __array_ufunc__ = None

    def __rshift__(self, other: Any) -> Any:
        from dilkit.distortions import algebra

        return algebra.then(self, other) if isinstance(other, Operators) else NotImplemented

    def __or__(self, other: Any) -> Any:
        from dilkit.distortions import algebra

        return algebra.union(self, other) if isinstance(other, Operators) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        from dilkit.distortions import algebra

        return algebra.without(self, other) if isinstance(other, Operators) else NotImplemented

    def __pow__(self, times: Any) -> Any:
        from dilkit.distortions import algebra

        return algebra.power(self, times)

    def __rmul__(self, weight: Any) -> Any:
        from dilkit.distortions import algebra

        return algebra.Weighted.of(weight, self)
