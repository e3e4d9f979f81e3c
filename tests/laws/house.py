"""The laws of the house, read off the syntax of a source tree; nothing is imported or run.

`House(root)` parses `root/dilkit` and `root/cli`. Each law is a function from a House to its `Offence`s, so a
synthetic tree of a few lines shows that the law can fail. `docs/architecture.md` states the laws in words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ORDER = [
    {"errors", "_version"},
    {"registry", "libraries"},
    {"distortions", "models", "meta", "metrics", "losses", "devices", "zoo"},
    {"confounders"},
    {"objectives"},
    {"recipe"},
    {"checkpoint"},
    {"training", "inference"},
    {"evaluation"},
    {"experiments"},
    {"report"},
    {"testing"},
    {"cli"},
]
"""Rooms from the foundation up: a room imports from those before it, never from its own row or after it."""

TORCH = {
    "meta", "models", "objectives", "checkpoint", "training", "inference", "evaluation", "experiments",
    "devices", "losses", "confounders.episodes", "testing", "cli.check",
}  # fmt: skip
"""Where torch may be named; `metrics`, `distortions`, `recipe`, `report`, most of `confounders` are NumPy."""

BANNED = {
    "crew": "workers", "desk": "queue", "outbox": "writer", "seal": "checksum", "draft": "unfinished file",
    "ledger": "state", "worlds": "swap", "keeper": "callbacks", "shares": "the shards or ranks meant",
    "strips": "rows or chunks", "misfits": "mismatches",
}  # fmt: skip
"""Words that hide their purpose, in any part of a name, and what the field says instead."""

BANNED_WHOLE = {
    "head": "header", "pages": "the unit meant", "view": "api, image or crop", "tell": "log",
    "trial": "dry run", "live_anything": "the word of the field",
}  # fmt: skip
"""The same, where the word is the whole name; inside a longer name each may be a word of the field."""

CONVENTIONS = {("models", "build"), ("models", "Block")}
"""Names that each file of a room defines by convention: a net's file has its `build` and its `Block`."""


@dataclass(frozen=True)
class Offence:
    """A place where a law is broken."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Import:
    """An import, wherever it stands: at the top, in a function, under TYPE_CHECKING, or in a string."""

    line: int
    target: str
    hidden: bool


@dataclass(frozen=True)
class Module:
    """One source file. `name` is dotted and without the package's own: `meta.api`, `cli.eval`."""

    name: str
    file: str
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[2].strip("_")

    @cached_property
    def docstrings(self) -> set[int]:
        """Constants that are documentation."""
        return {
            id(node.value) for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }  # fmt: skip

    def definitions(self) -> Iterator[tuple[int, str, ast.stmt]]:
        """Top-level classes, functions and names assigned."""
        for node in self.tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node.lineno, node.name, node
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets if isinstance(node, (ast.Assign, ast.AnnAssign)) else ():
                if isinstance(target, ast.Name):
                    yield node.lineno, target.id, node


class House:
    """The modules of `dilkit/` and `cli/` under a root folder."""

    def __init__(self, root: Path) -> None:
        self.modules: dict[str, Module] = {}
        for folder in ("dilkit", "cli"):
            for path in sorted((root / folder).rglob("*.py")):
                parts = list(path.relative_to(root).with_suffix("").parts)
                package = parts[-1] == "__init__"
                parts = parts[:-1] if package else parts
                name = ".".join(parts if folder == "cli" else parts[1:])
                tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
                self.modules[name] = Module(name, str(path.relative_to(root)), tree, package)

    def imports(self, module: Module) -> list[Import]:
        """All imports; those of this house by its own names, as `meta.api`."""
        found = []
        top = {id(node) for node in module.tree.body}
        for node in ast.walk(module.tree):
            hidden = id(node) not in top
            if isinstance(node, ast.Import):
                found += [Import(node.lineno, self._own(alias.name), hidden) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                for alias in node.names:
                    inner = self._own(f"{base}.{alias.name}")
                    found.append(
                        Import(node.lineno, inner if inner in self.modules else self._own(base), hidden)
                    )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                own = self._named_by(node.value)
                if own is not None and id(node) not in module.docstrings:
                    found.append(Import(node.lineno, own, True))
        return found

    def _base(self, module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = ["dilkit", *filter(None, module.name.split("."))]
        parts = parts[: len(parts) - node.level + module.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def _own(self, name: str) -> str:
        """The house's name of a module; what is not of this house keeps its own, marked by a colon."""
        if name == "dilkit" or name.startswith("dilkit."):
            return name[len("dilkit.") :]
        return f":{name}"

    def _named_by(self, text: str) -> str | None:
        """A module that a string names for a lazy import: `dilkit.meta.api` or `dilkit.meta:Meta`.

        A package by itself is not taken for one: it may be the anchor of a data file.
        """
        match = re.fullmatch(r"dilkit\.([a-z_0-9.]+?)(:\w+)?", text)
        if match is None or match[1] not in self.modules:
            return None
        return match[1] if match[2] or not self.modules[match[1]].is_package else None


Law = Callable[[House], Iterator[Offence]]


def level(room: str) -> int | None:
    return next((i for i, row in enumerate(ORDER) if room in row), None)


def import_direction(house: House) -> Iterator[Offence]:
    """Law 1: imports point to the foundation, those in functions, strings and under TYPE_CHECKING too.

    `dilkit/__init__.py` stands above all rooms: its table of public names is exempt.
    """
    for module in house.modules.values():
        if module.room in ("", "__main__"):
            continue
        own = level(module.room)
        if own is None:
            yield Offence(module.file, 1, f"the room {module.room!r} has no place in the order of rooms")
            continue
        for found in house.imports(module):
            room = found.target.partition(".")[0]
            target = level(room)
            if room == module.room or target is None:
                continue
            if target >= own:
                where = "beside" if target == own else "above"
                yield Offence(module.file, found.line, f"imports {found.target}, a room {where} its own")


def circles(house: House) -> Iterator[Offence]:
    """Law 1: no modules import each other in a circle, by whatever way an import is written.

    A circle of a package's `__init__` with its own modules counts: they must not ask the package.
    """
    edges = {
        name: {f.target: f.line for f in house.imports(module) if f.target in house.modules and f.target}
        for name, module in house.modules.items()
        if name not in ("", "__main__")
    }
    for circle in _strongly_connected({name: set(out) - {name} for name, out in edges.items()}):
        first = min(circle)
        inside = sorted(set(edges[first]) & circle)
        yield Offence(
            house.modules[first].file, edges[first][inside[0]], f"circle of {', '.join(sorted(circle))}"
        )


def _strongly_connected(edges: dict[str, set[str]]) -> list[set[str]]:
    """Tarjan's components of more than one node."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(component)

    for node in edges:
        if node not in index:
            visit(node)
    return found


def torch_where_allowed(house: House) -> Iterator[Offence]:
    """Law 2: torch is imported only in the rooms and files of `TORCH`."""
    for module in house.modules.values():
        if module.room in TORCH or module.name in TORCH:
            continue
        for found in house.imports(module):
            if re.match(r":(torch|torchvision|torchmetrics|higher|learn2learn)\b", found.target):
                yield Offence(module.file, found.line, f"imports {found.target[1:]} outside the allow-list")


def albumentations_in_one_file(house: House) -> Iterator[Offence]:
    """Law 2: albumentations is imported in the bridge alone."""
    for module in house.modules.values():
        for found in house.imports(module):
            if found.target.startswith(":albu") and module.name != "distortions.albumentations":
                yield Offence(module.file, found.line, "imports albumentations outside its bridge")


def meta_needs_torch_alone(house: House) -> Iterator[Offence]:
    """Law 2: `meta/` imports the standard library, torch, the foundation, and engines where asked for."""
    import sys

    for module in house.modules.values():
        if module.room not in ("meta", "errors", "registry"):
            continue
        for found in house.imports(module):
            name = found.target.lstrip(":").partition(".")[0]
            if found.target.startswith(":"):
                engine = name in ("higher", "learn2learn") and module.name == f"meta.backends.{name}"
                ok = name in sys.stdlib_module_names or name == "torch" or (engine and found.hidden)
                ok = ok or (engine and module.stem == name)
            else:
                ok = name in ("meta", "errors", "registry", "")
            if not ok:
                yield Offence(module.file, found.line, f"imports {found.target.lstrip(':')}")


SINGLE_PLACES = {
    "a virtual update": (r"\.descend\(|carrier\.update\(", {"meta.trajectory"}),
    "a reader of safetensors": (r"\bsafe_open\(", {"checkpoint"}),
    "a chooser of the device": (r"torch\.(cuda|backends\.mps)\.is_available\(\)", {"devices"}),
    "a progress view": (r"\brich\.(progress|live)\b", {"cli.progress"}),
    "a clock (seconds to text)": (r"def (clock|duration)\b", {"cli.progress", "errors"}),
    "a perceptual hash": (r"def (perceptual_hash|dct_hash|phash|looks_alike)\b", {"confounders.duplicates"}),
}
"""Law 3: what is done in one place: a pattern of its source, and the one module that may match."""


def one_place(house: House, sources: Callable[[Module], str] | None = None) -> Iterator[Offence]:
    """Law 3: one place for virtual updates, one reader of checkpoints, one device chooser, one clock, one
    progress view, one likeness.
    """
    for what, (pattern, homes) in SINGLE_PLACES.items():
        for module in house.modules.values():
            if module.name in homes:
                continue
            source = ast.unparse(module.tree) if sources is None else sources(module)
            if re.search(pattern, source):
                line = next(
                    (n.lineno for n in ast.walk(module.tree)
                     if isinstance(n, (ast.stmt, ast.expr)) and re.search(pattern, ast.unparse(n))
                     and not any(re.search(pattern, ast.unparse(c)) for c in ast.iter_child_nodes(n))), 1,
                )  # fmt: skip
                yield Offence(module.file, line, f"{what}: belongs in {' or '.join(sorted(homes))}")


def module_names(house: House) -> Iterator[Offence]:
    """Law 4: no module name twice, but `__init__` and a command beside its library function."""
    seen: dict[tuple[bool, str], Module] = {}
    for module in house.modules.values():
        if module.is_package or module.name == "__main__":
            continue
        key = (module.room == "cli", module.stem)
        if key in seen:
            yield Offence(module.file, 1, f"the name {module.stem!r} is taken by {seen[key].file}")
        seen.setdefault(key, module)


def plain_names(house: House) -> Iterator[Offence]:
    """Law 4: no module or top-level definition has a name that hides its purpose."""

    def judged(name: str) -> str | None:
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip("_")).lower()
        if plain in BANNED_WHOLE:
            return f"{name!r} hides its purpose: say {BANNED_WHOLE[plain]}"
        for word in plain.split("_"):
            if word in BANNED:
                return f"{name!r} hides its purpose: say {BANNED[word]}"
        return None

    for module in house.modules.values():
        if what := judged(module.stem):
            yield Offence(module.file, 1, f"module {what}")
        for line, name, _ in module.definitions():
            if what := judged(name):
                yield Offence(module.file, line, what)


def homonyms(house: House) -> Iterator[Offence]:
    """Law 5: a public class or function has a name of its own; `fit` trains, `load_weights` loads.

    Commands in `cli/` share the name of the function they call; overloads of a function are one definition.
    """
    seen: dict[str, Module] = {}
    for module in house.modules.values():
        if module.room == "cli":
            continue
        for line, name, node in module.definitions():
            if name.startswith("_") or not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            if (module.room, name) in CONVENTIONS:
                continue
            if seen.get(name, module) is not module:
                yield Offence(module.file, line, f"{name!r} is also defined in {seen[name].file}")
            seen.setdefault(name, module)
            if name == "fit" and module.room != "training":
                yield Offence(module.file, line, "`fit` trains; say load_weights")


def silent_library(house: House) -> Iterator[Offence]:
    """Law 6: only `cli/` prints, exits or writes to the standard streams."""
    for module in house.modules.values():
        if module.room == "cli":
            continue
        for node in ast.walk(module.tree):
            text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield Offence(module.file, node.lineno, "prints")
            elif text in ("sys.exit", "SystemExit", "exit", "quit") and not isinstance(
                getattr(node, "ctx", None), ast.Store
            ):
                yield Offence(module.file, node.lineno, f"ends the program: {text}")
            elif text in ("sys.stdout.write", "sys.stderr.write"):
                yield Offence(module.file, node.lineno, f"writes to a standard stream: {text}")


def pure_objectives(house: House) -> Iterator[Offence]:
    """Law 6: `objectives/` never touches an optimiser of theta, a file or a device."""
    for module in house.modules.values():
        if module.room != "objectives":
            continue
        for found in house.imports(module):
            if found.target in (":pathlib", ":os", ":io", ":h5py", ":safetensors", ":shutil", ":tempfile"):
                yield Offence(
                    module.file, found.line, f"imports {found.target[1:]}: objectives touch no file"
                )
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            last = called.rpartition(".")[2]
            if called == "open" or called in ("torch.save", "torch.load"):
                yield Offence(module.file, node.lineno, f"touches a file: {called}()")
            elif called == "torch.device" or called.startswith("torch.cuda") or last in ("cuda", "cpu"):
                yield Offence(module.file, node.lineno, f"chooses a device: {called}()")
            elif last == "zero_grad" or (last == "step" and "optim" in called):
                yield Offence(module.file, node.lineno, f"touches the optimiser: {called}()")


def registries(house: House) -> dict[str, tuple[Module, int]]:
    """Kind -> where its `Registry("kind", ...)`, or that of a class derived from it, is made."""
    found, makers = {}, {"Registry"}
    for module in house.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and any("Registry" in ast.unparse(b) for b in node.bases):
                makers.add(node.name)
    for module in house.modules.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            if ast.unparse(function).rpartition(".")[2] in makers and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found[first.value] = (module, node.lineno)
    return found


LAWS: dict[str, Law] = {
    "import direction": import_direction,
    "no circle": circles,
    "torch where allowed": torch_where_allowed,
    "albumentations in one file": albumentations_in_one_file,
    "meta needs torch alone": meta_needs_torch_alone,
    "one place": one_place,
    "module names once": module_names,
    "plain names": plain_names,
    "no homonyms": homonyms,
    "silent library": silent_library,
    "pure objectives": pure_objectives,
}
