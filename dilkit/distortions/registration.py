"""What a kind must be to be registered, so that its words can be written, read and made transforms of."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Collection
from typing import TYPE_CHECKING

from dilkit.distortions.laws import LAWS
from dilkit.distortions.presets import PRESETS
from dilkit.errors import UsageError

if TYPE_CHECKING:
    from dilkit.distortions.primitive import PrimitiveKind

RESERVED = frozenset(
    (
        *("clean", "none", "mix", "shuffle", "interleave", "prob", *LAWS),
        *(preset.identifier for preset in PRESETS.values()),
    )
)
"""Names that the text form needs itself."""

TYPES = (float, int, bool, str)
"""What a parameter can be."""

RESERVED_PARAMETERS = frozenset(("self", "p", "root_seed", "strict"))
"""What the transforms of albumentations take besides."""

RESERVED_CLASSES = frozenset(
    (
        *("A", "Any", "Distort", "KindTransform", "Mapping", "PrimitiveKind", "REGISTRY", "SampleKey"),
        *("Word", "WordTransform"),
    )
)
"""Names in the module that the transforms of all kinds are part of."""


def class_name(name: str) -> str:
    """How the albumentations transform of the kind of that name is called."""
    return "".join(part.capitalize() for part in name.split("_"))


def check(kind: PrimitiveKind, known: Collection[str]) -> None:
    """Raises UsageError for what cannot stand beside the kinds of the known names."""
    if not _writable(kind.name) or kind.name in RESERVED or kind.name.startswith("_"):
        raise UsageError(
            f"a distortion cannot be named {kind.name!r}", expected="an identifier that is not reserved"
        )
    if isinstance(kind.version, bool) or not isinstance(kind.version, int):
        raise UsageError(f"the version of {kind.name!r} must be a whole number", found=repr(kind.version))
    for param in kind.params:
        _check_param(param, kind.name)
    names = [param.name for param in kind.params]
    if len(set(names)) < len(names) or (kind.degree is not None and kind.degree not in names):
        raise UsageError(f"the degree of {kind.name!r} must be one of its parameters", found=kind.degree)
    if kind.name in known:
        raise UsageError(f"a distortion named {kind.name!r} is already registered")
    _check_class(kind.name, known)


def _writable(name: object) -> bool:
    """Whether Python reads it as one name, and as no other one."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return False
    return unicodedata.normalize("NFKC", name) == name


def _check_param(param: object, kind: str) -> None:
    from dilkit.distortions.primitive import REQUIRED, Param

    if not isinstance(param, Param):
        raise UsageError(f"a parameter of {kind!r} must be a Param", found=repr(param))
    if not _writable(param.name) or param.name in RESERVED_PARAMETERS:
        raise UsageError(
            f"a parameter of {kind!r} cannot be named {param.name!r}",
            expected="an identifier that is not reserved",
        )
    if param.type not in TYPES:
        raise UsageError(
            f"the parameter {param.name} of {kind!r} has a type that it cannot have",
            found=repr(param.type),
            expected=", ".join(allowed.__name__ for allowed in TYPES),
        )
    if param.default is not REQUIRED:
        param.check(param.default, kind)


def _check_class(name: str, known: Collection[str]) -> None:
    made = class_name(name)
    other = next((taken for taken in known if class_name(taken) == made), None)
    if other is not None or made in RESERVED_CLASSES:
        raise UsageError(
            f"the transform of a distortion named {name!r} would be called {made}",
            found=f"that of {other!r} is" if other else f"another {made} in the module of the transforms",
            remedy="choose another name",
        )
