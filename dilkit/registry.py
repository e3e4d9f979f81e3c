"""One registry for everything that can be plugged in: distortions, objectives, losses, models, metrics,
protocols, sinks, exporters. `dilkit.register` finds the registry for a thing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar

from dilkit.errors import DilkitError, UsageError, nearest

T = TypeVar("T")

PLUGINS = "DILKIT_PLUGINS"
"""Environment variable with plug-in files, written as PATH is. `--plugin` sets it for worker processes."""

_ORIGIN: ContextVar[str] = ContextVar("origin", default="")
"""Whose code runs, while a plug-in is loaded."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing.

    Attributes:
        value: the thing itself, or `module:attribute` of this package while nobody has asked for it.
        origin: who brought it: `dilkit`, an installed package, or a file.
    """

    name: str
    value: T | str
    origin: str


class Registry(Generic[T]):
    """Named things of one kind: dilkit's own, those registered since, those of installed plug-ins.

    Plug-ins are the entry points of the group `dilkit.<kind>s` and the files in `$DILKIT_PLUGINS`; they are
    loaded when an unknown name is asked for, or all names are. Adding is atomic: what is refused leaves the
    registry as it was.

    Args:
        kind: what one of them is called in messages: `objective`.
        own: name -> `module:attribute` of those that come with dilkit, imported when first asked for.
        check: raises a UsageError where a thing does not keep the contract of its kind.
        is_one: whether an object that an entry point gives is one thing (else it is a module that registers
            itself, or several things).
        command: what lists them all, named where a name is unknown: `dilkit ls distortions`.
    """

    def __init__(
        self,
        kind: str,
        *,
        own: Mapping[str, str] | None = None,
        check: Callable[[str, T], None] = lambda name, value: None,
        is_one: Callable[[Any], bool] = callable,
        command: str = "",
    ) -> None:
        self.kind = kind
        self.group = f"dilkit.{kind}s"
        self._check, self._is_one, self._command = check, is_one, command
        self._entries: dict[str, Entry[T]] = {
            name: Entry(name, path, "dilkit") for name, path in (own or {}).items()
        }
        self._complete = self._loading = False
        self._lock = threading.RLock()

    def add(self, value: T, name: str | None = None, *, origin: str = "") -> T:
        """Register a thing under its own `name` or the one given; the same thing may come again.

        Args:
            origin: who brings it; found out where it is not said: the plug-in that is being loaded, `dilkit`
                for what is defined in it, or else the module that the thing is defined in.

        Raises:
            UsageError: the name is missing or taken, or the thing breaks the contract of its kind.
        """
        key = name or getattr(value, "name", None) or getattr(value, "__name__", None)
        if not isinstance(key, str):
            raise UsageError(f"a {self.kind} needs a name", found=repr(key or value))
        origin = origin or _ORIGIN.get() or _home(value)
        with self._lock:
            present = self._entries.get(key)
            if present is not None and self._same(present, value):
                return value
            if present is not None:
                raise UsageError(
                    f"the {self.kind} {key!r} is registered already",
                    found=f"one from {origin}, one from {present.origin}",
                    remedy="give it another name",
                )
            self._check(key, value)
            self._entries[key] = Entry(key, value, origin)
        return value

    def get(self, name: str) -> T:
        """The thing of that name.

        Raises:
            UsageError: there is none; the nearest name is given.
        """
        found = self.find(name)
        if found is None:
            raise UsageError(
                f"unknown {self.kind} {name!r}",
                expected=None if self._command else ", ".join(sorted(self.names)) or "none is registered",
                nearest=nearest(name, self.names),
                remedy=f"`{self._command}` lists them" if self._command else None,
            )
        return found

    def find(self, name: str) -> T | None:
        """The thing of that name, if there is one; plug-ins are loaded only for a name that is not known."""
        if name not in self._entries:
            self._load_plugins()
        return self._value(name) if name in self._entries else None

    @property
    def names(self) -> tuple[str, ...]:
        """All names, those of installed plug-ins included."""
        self._load_plugins()
        return tuple(self._entries)

    def values(self) -> tuple[T, ...]:
        """All things, those of installed plug-ins included."""
        return tuple(self._value(name) for name in self.names)

    @property
    def loaded(self) -> Mapping[str, Entry[T]]:
        """Those known so far, without plug-ins that nobody has asked for."""
        return MappingProxyType(self._entries)

    def recognises(self, value: object) -> bool:
        """Whether a thing can be told to be of this kind; never where `is_one` was not given."""
        return self._is_one is not callable and self._is_one(value)

    def origin(self, name: str) -> str:
        """Who brought it: `dilkit`, an installed package, or a file."""
        self.get(name)
        return self._entries[name].origin

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def _value(self, name: str) -> T:
        entry = self._entries[name]
        if isinstance(entry.value, str):
            module, _, attribute = entry.value.partition(":")
            entry = Entry(name, getattr(importlib.import_module(module), attribute), entry.origin)
            self._entries[name] = entry
        return entry.value  # type: ignore[return-value]

    def _same(self, present: Entry[T], value: T) -> bool:
        if not isinstance(present.value, str):
            return present.value is value
        return present.value == f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"

    def _load_plugins(self) -> None:
        """Add what installed plug-ins bring; other threads wait, and a broken plug-in is named.

        A plug-in that asks while it is loaded itself gets the things known so far.
        """
        if self._complete:
            return
        with self._lock:
            if self._complete or self._loading:
                return
            self._loading = True
            try:
                for point in entry_points(group=self.group):
                    self._load(point)
                for path in filter(None, os.environ.get(PLUGINS, "").split(os.pathsep)):
                    load_plugin(path)
                self._complete = True
            finally:
                self._loading = False

    def _load(self, point: EntryPoint) -> None:
        package = point.dist.name if point.dist else "unknown"
        token = _ORIGIN.set(package)
        try:
            for name, value in self._things(point):
                self.add(value, name, origin=package)
        except Exception as error:
            raise DilkitError(
                f"the plug-in {point.name!r} cannot be loaded: {error}",
                where=f"package {package}",
                found=point.value,
                remedy="repair or uninstall that package",
            ) from error
        finally:
            _ORIGIN.reset(token)

    def _things(self, point: EntryPoint) -> Iterable[tuple[str | None, T]]:
        """An entry point gives one thing, several, or a module that calls `dilkit.register` itself."""
        found = point.load()
        if isinstance(found, ModuleType):
            return ()  # its import has registered them
        if self._is_one(found):
            return (((None if hasattr(found, "name") else point.name), found),)
        values = tuple(found)
        if not all(self._is_one(value) for value in values):
            raise TypeError(f"it holds something that is no {self.kind}")
        return tuple((None, value) for value in values)


def import_named(path: str, where: str) -> Any:
    """What `package.module:name` names. The module runs: never called with what a checkpoint or a dataset
    names, unless the user has said that it is trusted.

    Args:
        where: the recipe's key or the flag, for the error.

    Raises:
        UsageError: it cannot be imported.
    """
    module, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        name = getattr(error, "name", None)
        itself = name is None or module == name or module.startswith(f"{name}.")
        own = "install the package, or put its folder on PYTHONPATH: PYTHONPATH=. dilkit ..."
        raise UsageError(
            f"cannot import {module!r}: {error}",
            where=where,
            remedy=own if itself else f"install {name}, which {module} imports",
        ) from error
    if not hasattr(found, attribute):
        raise UsageError(
            f"{module} has no {attribute!r}", where=where, nearest=nearest(attribute, dir(found))
        )
    return getattr(found, attribute)


def _home(value: object) -> str:
    """`dilkit` for what is defined in it, else the module that a thing (or what it applies) is defined in."""
    module = getattr(value, "__module__", "")
    if not hasattr(value, "__qualname__"):  # an instance: of a class of dilkit's, but whose function?
        module = getattr(getattr(value, "apply", None), "__module__", module)
    module = module or "__main__"
    return "dilkit" if module.partition(".")[0] == "dilkit" else module


def load_plugin(path: str | Path) -> ModuleType:
    """Run a file of the user's own, which calls `dilkit.register`; a file is run once a process.

    Never called with a path that a checkpoint or a dataset names.

    Raises:
        UsageError: there is no such file, or it fails; with its own error as the cause.
    """
    file = Path(path).expanduser().resolve()
    name = f"dilkit_plugin_{blake2b(str(file).encode(), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise UsageError("there is no such plug-in file", where=path, expected="a Python file: FILE.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    token = _ORIGIN.set(str(file))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"the plug-in failed: {type(error).__name__}: {error}", where=path) from error
    finally:
        _ORIGIN.reset(token)
    return module


def loaded_plugins() -> tuple[str, ...]:
    """The files that `load_plugin` has run in this process, in order."""
    found = (module for name, module in list(sys.modules.items()) if name.startswith("dilkit_plugin_"))
    return tuple(str(module.__file__) for module in found)
