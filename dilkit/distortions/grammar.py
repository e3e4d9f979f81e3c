"""From text to words and sets: a Python expression, read by `ast` with a whitelist and never evaluated.

Names of confounders come before the expression of each: `hard = bsrgan | rain = rain(0.01)`. Mistakes are
shown with carets under them.
"""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

from dilkit.distortions import algebra
from dilkit.distortions.algebra import (
    REGISTRY,
    ConfounderSet,
    Expression,
    KindError,
    PrimitiveKind,
    Weighted,
    Word,
    clean,
    none,
)
from dilkit.distortions.params import LAWS, Law, ParameterError, make_law
from dilkit.distortions.presets import PRESETS, Preset
from dilkit.distortions.randomness import SampleKey, pixel_hash
from dilkit.distortions.render import Image, as_float, require_image
from dilkit.errors import UsageError, nearest
from dilkit.libraries import np, npt


class ExpressionError(UsageError):
    """A mistake at a place in an expression; `column` counts from 1."""

    def __init__(self, message: str, *, text: str, start: int, end: int, **details: Any) -> None:
        self.column = start + 1
        super().__init__(f"{message}\n{_pointed(text, start, end)}", where=f"column {self.column}", **details)


class ExpressionTypeError(ExpressionError, KindError):
    """A set where one word was expected, or nothing that is a distortion."""


def _pointed(text: str, start: int, end: int, around: int = 50) -> str:
    """The text about a place, with carets under it."""
    left, right = max(0, start - around), min(len(text), max(end, start + 1) + around)
    before = ("..." if left else "") + text[left:start]
    after = text[end:right] + ("..." if right < len(text) else "")
    shown = text[start:end]
    if len(shown) > 2 * around:
        shown, after = shown[: 2 * around], "..."
    line = "".join(c if c.isprintable() else "\ufffd" for c in before + shown + after)
    return f"  {line}\n  {' ' * _width(before)}{'^' * max(1, _width(shown))}"


def _width(text: str) -> int:
    """Columns of a terminal: two for a wide character, none for an accent put over another."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _blamed(node: ast.AST, error: UsageError) -> ast.AST:
    if isinstance(error, ParameterError) and isinstance(node, ast.Call):
        if isinstance(error.parameter, int) and error.parameter < len(node.args):
            return node.args[error.parameter]
        for keyword in node.keywords:
            if keyword.arg == error.parameter:
                return keyword
        if error.parameter is not None and len(node.args) == 1:
            return node.args[0]
    if isinstance(error, ParameterError) and isinstance(node, ast.Subscript):
        return node.slice
    return node


MAX_TEXT = 100_000
"""The longest expression, in characters."""
MAX_NODES = 50_000
"""The most nodes of its syntax tree."""
_LONGEST_INTEGER = 1024
"""Bits; no parameter takes a larger one, and its digits could not be shown."""
MAX_WORK = 200_000
"""The most primitives that all intermediate results may have together."""

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Expression]] = {
    ast.RShift: algebra.then,
    ast.BitOr: algebra.union,
    ast.Sub: algebra.without,
}
_CONSTANTS: dict[str, Expression] = {"clean": clean, "none": none}
_FORMS: dict[str, Callable[..., Word]] = {
    form.__name__: form for form in (algebra.mix, algebra.shuffle, algebra.interleave, algebra.prob)
}

_PRESETS = {name: preset.identifier for name, preset in PRESETS.items()}
_BY_IDENTIFIER = {preset.identifier: preset for preset in PRESETS.values()}
_SPECIAL = re.compile("|".join(["'[^']*'", '"[^"]*"', r"#[^\r\n]*", *(rf"\b{name}\b" for name in _PRESETS)]))
"""Quoted words, which stay; comments, which go; names of presets, whose dashes are not minus signs."""


def parse(text: str) -> Expression:
    """Read an expression: `gaussian_blur(2) >> awgn[5, 10] | clean`.

    Raises:
        ExpressionError: says where and what; nothing of the text is ever evaluated.
    """
    if not isinstance(text, str):
        raise UsageError("an expression is a text", found=type(text).__name__)
    return _Reader(text).read()


def confounder_set(expr: str | Expression | PrimitiveKind | Sequence[Any]) -> ConfounderSet:
    """Anything that means distortions, as a set: a text, a word, a set, or a list of them (it means `|`)."""
    if isinstance(expr, str):
        return ConfounderSet.of(algebra.words_of(parse(expr)))
    if isinstance(expr, (list, tuple)):
        return ConfounderSet.of(chain.from_iterable(confounder_set(part).words for part in expr))
    return ConfounderSet.of(algebra.words_of(expr))


def distort_image(
    image: npt.NDArray[Any], expr: str | Expression | PrimitiveKind | Sequence[Any], *, seed: int = 0
) -> dict[str, Image]:
    """An image under every distortion of an expression: `distort_image(image, "awgn[5, 25] | jpeg(30)")`.

    Args:
        image: (H, W, 3) RGB, uint8 or float32 in [0, 1]; it is not changed.
        expr: what `confounder_set` takes.
        seed: with the pixels of the image, all that random numbers depend on.

    Returns:
        Label -> (h, w, 3) float32, neither clipped nor rounded unless the word says so: the pixels of a
        dataset of this image and this seed.

    Raises:
        UsageError: a wrong image or expression.
    """
    require_image(image, np.uint8, np.float32)
    key = SampleKey(seed, pixel_hash(image))
    return {word.label: word.apply(as_float(image), key) for word in confounder_set(expr)}


def describe_preset(name: str) -> dict[str, Any]:
    """What there is to say of a preset, JSON-able: its expression in full, its hash, parameters and source.

    Raises:
        UsageError: there is no such preset; the nearest name is given.
    """
    found = PRESETS.get(name.replace("_", "-"))
    if found is None:
        raise UsageError(
            f"no preset is called {name!r}",
            nearest=nearest(name, PRESETS),
            remedy="`dilkit ls presets` lists them",
        )
    made = parse(found.text)  # without the name of the preset
    return {
        "name": found.name,
        "summary": found.summary,
        "parameters": [
            {"name": p.name, "takes": p.range, "default": str(p.default), "meaning": p.doc}
            for p in found.params
        ],
        "expression": str(made),
        "hash": made.hash,
        "source": found.source,
        "notes": found.notes,
    }


@cache
def _expanded(preset: Preset, given: tuple[tuple[str, Any], ...]) -> Expression:
    """The expression that a preset stands for; one word is called as the preset is."""
    made = parse(preset.text_for(dict(given)))
    return made.named(preset.label_for(dict(given))) if isinstance(made, Word) else made


def _plain(found: re.Match[str]) -> str:
    word = found[0]
    return " " * len(word) if word.startswith("#") else _PRESETS.get(word, word)


_NAMING = "a name comes before a whole confounder: hard = bsrgan | wet = rain(0.01)"
_MISNAMED = re.compile(r"(?<![=(,\w])\s*\w+\s*=(?!=)|(?<!\w)\(\s*\w+\s*=(?!=)")
_BRACKETS = re.compile(r"(?<=\w)\([^()]*\)")
_NAMED = re.compile(r"\s*([^\s=|()\[\]'\"]+)\s*=(?!=)")


def _names(text: str, plain: str) -> Iterator[tuple[int, tuple[int, int, str]]]:
    """(which alternative of the outermost `|`, (start, end with its sign, name)) of each name."""
    starts, depth, quote = [0], 0, ""
    for place, sign in enumerate(plain):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "([":
            depth += 1
        elif sign in ")]":
            depth -= 1
        elif sign == "|" and depth == 0:
            starts.append(place + 1)
    for index, start in enumerate(starts):
        if (found := _NAMED.match(plain, start)) is not None:
            yield index, (found.start(1), found.end(), text[found.start(1) : found.end(1)])


class _Reader:
    """An expression in one line; `code` is what is parsed of it, which begins at `offset`."""

    def __init__(self, text: str) -> None:
        plain = "".join(" " if c.isspace() else c for c in _SPECIAL.sub(_plain, text))
        self.names = dict(_names(text, plain)) if "=" in plain and len(text) <= MAX_TEXT else {}
        self.text = "".join(" " if c.isspace() else c for c in text)
        for start, end, _ in self.names.values():
            plain = plain[:start] + " " * (end - start) + plain[end:]
        self.code = plain.lstrip()
        self.offset = len(plain) - len(self.code)
        self.work = 0

    def read(self) -> Expression:
        algebra.refuse_more(len(self.text), MAX_TEXT, "an expression of {} characters is too long")
        if not self.text.strip():
            raise UsageError("the expression is empty", remedy="`clean` is the word that changes nothing")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # such as a backslash in a quoted word
                warnings.simplefilter("ignore", DeprecationWarning)
                tree = ast.parse(self.code, mode="eval").body
            if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
                raise UsageError(
                    "the expression is too large", expected=f"at most {MAX_NODES} names and signs"
                )
            return self.with_names(tree) if self.names else self.words(self.operand(tree), tree)
        except SyntaxError as error:
            dotted = re.search(r"(\w+)\[\s*([\d.]+?)\s*\.\.+\s*([\d.]*\d)\s*\]", self.code)
            column = max(0, (error.offset or 1) - 1) + self.offset
            raise ExpressionError(
                f"not an expression ({error.msg})",
                text=self.text,
                start=min(column, len(self.text)),
                end=column + 1,
                nearest=f"{dotted[1]}[{dotted[2]}:{dotted[3]}:STEP]" if dotted else None,
                remedy=_NAMING if _MISNAMED.search(_BRACKETS.sub("", self.code)) else None,
            ) from None
        except (RecursionError, MemoryError):
            raise UsageError("the expression is nested too deeply") from None
        except (ValueError, OverflowError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"not an expression ({error})", found=self.text[:80]) from None

    def span(self, node: ast.AST) -> tuple[int, int]:
        line = self.code.encode()
        start = len(line[: node.col_offset].decode(errors="replace"))  # type: ignore[attr-defined]
        end = len(line[: node.end_col_offset].decode(errors="replace"))  # type: ignore[attr-defined]
        return start + self.offset, end + self.offset

    def what(self, node: ast.AST) -> str:
        """The node as it is written, shortened."""
        start, end = self.span(node)
        shown = self.text[start:end]
        return shown if len(shown) <= 40 else shown[:37] + "..."

    def error(self, node: ast.AST, message: str, **details: Any) -> ExpressionError:
        start, end = self.span(node)
        return ExpressionError(message, text=self.text, start=start, end=end, **details)

    def located(self, node: ast.AST, build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`build(...)`, its errors pointing at the node (or at the argument they are about)."""
        try:
            return build(*args, **kwargs)
        except ExpressionError:
            raise
        except UsageError as error:
            start, end = self.span(_blamed(node, error))
            kind = ExpressionTypeError if isinstance(error, TypeError) else ExpressionError
            raise kind(
                error.message, text=self.text, start=start, end=end, found=error.found,
                expected=error.expected, nearest=error.nearest, remedy=error.remedy,
            ) from None  # fmt: skip

    def at(self, node: ast.AST, build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`build(...)`, its errors pointing at the node, its size counted."""
        made = self.located(node, build, *args, **kwargs)
        self.spend(made)
        return made

    def spend(self, made: Any) -> None:
        if isinstance(made, (Word, ConfounderSet)):
            self.work += sum(1 + word.size for word in algebra.words_of(made))
            if self.work > MAX_WORK:
                raise UsageError("the expression comes to too many distortions", found=self.text[:80] + "...")

    def with_names(self, tree: ast.expr) -> Expression:
        """The alternatives, each under its name."""
        nodes: list[ast.expr] = []
        while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
            nodes.append(tree.right)
            tree = tree.left
        nodes = [tree, *reversed(nodes)]
        if len(nodes) <= max(self.names):
            start, end, _ = self.names[max(self.names)]
            raise ExpressionError("this name belongs to no confounder", text=self.text, start=start, end=end)
        made = [self.words(self.operand(node), node) for node in nodes]
        for index, (start, end, name) in self.names.items():
            words = algebra.words_of(made[index])
            try:
                if len(words) != 1:
                    raise UsageError(f"a name is for one distortion, not for a set of {len(words)}")
                made[index] = words[0].named(name)
            except UsageError as error:
                raise ExpressionError(
                    error.message, text=self.text, start=start, end=end, expected=error.expected
                ) from None
        return made[0] if len(made) == 1 else self.joined(nodes[0], made[0], made[1:])

    # -- distortions --------------------------------------------------------------------------------------

    def operand(self, node: ast.expr) -> Any:
        match node:
            case ast.BinOp(op=ast.Pow()):
                return self.at(node, algebra.power, self.operand(node.left), self.value(node.right))
            case ast.BinOp(op=ast.Mult()):
                raise self.error(
                    node, "a weight belongs before a whole branch of mix", expected="mix(0.3*a, 0.7*(b >> c))"
                )
            case ast.BinOp(op=op) if type(op) in _OPERATORS:
                return self.chain(node)
            case ast.Name():
                return self.named(node)
            case ast.Call():
                return self.called(node)
            case ast.Subscript():
                return self.swept(node)
            case ast.BinOp(left=left, right=right) | ast.Compare(left=left, comparators=[right, *_]):
                raise self.misjoined(left, right)
        raise self.error(
            node, f"{self.what(node)} is not a distortion", expected="such as awgn(25) or jpeg[30, 50]"
        )

    def misjoined(self, left: ast.expr, right: ast.expr) -> ExpressionError:
        """The sign between two operands, which the algebra does not have."""
        first, last = self.span(left)[1], self.span(right)[0]
        sign = self.text[first:last].strip(" ()")
        start = self.text.index(sign, first)
        return ExpressionError(
            f"`{sign}` does not join distortions", text=self.text, start=start, end=start + len(sign),
            expected="`>>` (then), `|` (or), `-` (without)", nearest=">>" if sign == ">" else None,
        )  # fmt: skip

    def chain(self, node: ast.expr) -> Expression:
        """A run of operators, without recursion on its left side; `|` gathers all at once."""
        links: list[ast.BinOp] = []
        while isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            links.append(node)
            node = node.left
        result = self.operand(node)
        pending: list[Any] = []
        for link in reversed(links):
            right = self.operand(link.right)
            if isinstance(link.op, ast.BitOr):
                pending.append(right)
                continue
            result = self.joined(link.left, result, pending)
            pending = []
            result = self.linked(link, result, right)
        return self.joined(links[0], result, pending)

    def linked(self, link: ast.BinOp, first: Any, second: Any) -> Any:
        """Two words in sequence cost nothing more: both were counted when they were read."""
        words = isinstance(first, Word) and isinstance(second, Word)
        build = self.located if words and isinstance(link.op, ast.RShift) else self.at
        return build(link, _OPERATORS[type(link.op)], first, second)

    def joined(self, node: ast.AST, first: Any, others: list[Any]) -> Any:
        if not others:
            return first
        parts = chain.from_iterable(map(algebra.words_of, (first, *others)))
        return self.at(node, ConfounderSet.of, parts)

    def words(self, made: Any, node: ast.AST) -> Expression:
        return self.at(node, algebra.as_expression, made)

    def named(self, node: ast.Name) -> Any:
        if node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if node.id in _BY_IDENTIFIER:
            return self.at(node, _expanded, _BY_IDENTIFIER[node.id], ())
        return self.words(self.kind(node), node)

    def kind(self, node: ast.expr) -> PrimitiveKind:
        if not isinstance(node, ast.Name):
            raise self.error(node, f"{self.what(node)} is not the name of a distortion")
        if node.id in LAWS:
            raise self.error(
                node,
                f"{node.id} is a law of chance, not a distortion",
                expected=f"inside one: awgn({node.id}(1, 30))",
            )
        if node.id in _CONSTANTS or node.id in _FORMS:
            raise self.error(node, f"{node.id} cannot stand here")
        if node.id in _BY_IDENTIFIER:
            raise self.error(
                node, "a preset takes no degrees", expected="its parameters by name, if it has any"
            )
        if (kind := REGISTRY.find(node.id)) is not None:
            return kind
        known = [*REGISTRY.names, *_CONSTANTS, *_FORMS, *_PRESETS]
        dashed = re.match(r"[\w-]*", self.text[self.span(node)[0] :])
        raise self.error(
            node,
            f"unknown distortion {node.id!r}",
            nearest=(dashed and nearest(dashed[0], _PRESETS)) or nearest(node.id, known),
            remedy="`dilkit ls distortions` and `dilkit ls presets` list them",
        )

    def called(self, node: ast.Call) -> Any:
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self.error(keyword, "** is not allowed here")
        if isinstance(node.func, ast.Name) and node.func.id in _FORMS:
            return self.form(node, node.func.id)
        if isinstance(node.func, ast.Name) and node.func.id in _BY_IDENTIFIER:
            return self.preset(node, _BY_IDENTIFIER[node.func.id])
        kind = self.kind(node.func)
        args = [self.value(arg) for arg in node.args]
        return self.at(node, kind, *args, **self.keywords(node))

    def keywords(self, node: ast.Call) -> dict[str, Any]:
        given = {keyword.arg: self.value(keyword.value) for keyword in node.keywords if keyword.arg}
        if len(given) < len(node.keywords):
            raise self.error(node, "an argument is given twice")
        return given

    def preset(self, node: ast.Call, preset: Preset) -> Expression:
        if node.args:
            raise self.error(
                node.args[0], "a preset takes its parameters by name", expected="bsrgan(scale=2)"
            )
        given = self.keywords(node)
        for name, value in given.items():
            if isinstance(value, Law | list):
                raise self.error(node, f"{preset.name} takes a plain value", found=f"{name}={value}")
        return self.at(node, _expanded, preset, tuple(given.items()))

    def form(self, node: ast.Call, name: str) -> Word:
        if node.keywords:
            raise self.error(node.keywords[0], f"{name} takes no named arguments")
        if name == "prob":
            if len(node.args) != 2:
                raise self.error(node, "prob takes a probability and a word", expected="prob(0.5, jpeg(30))")
            p = self.at(node.args[0], algebra.exact_chance, self.value(node.args[0]))
            word = self.at(node.args[1], algebra.as_word, self.operand(node.args[1]), "the argument of prob")
            return self.at(node, algebra.prob, p, word)
        branches = [self.branch(arg, name) for arg in node.args]
        return self.at(node, _FORMS[name], *branches)

    def branch(self, node: ast.expr, name: str) -> Any:
        if name == "mix" and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            weight = self.at(node.left, algebra.exact_weight, self.value(node.left))
            return self.at(node.right, Weighted.of, weight, self.operand(node.right))
        role = "a branch of mix" if name == "mix" else f"an argument of {name}"
        return self.at(node, algebra.as_word, self.operand(node), role)

    def swept(self, node: ast.Subscript) -> ConfounderSet:
        kind = self.kind(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        degrees = tuple(
            self.range(part) if isinstance(part, ast.Slice) else self.value(part) for part in parts
        )
        return self.at(node, algebra.sweep, kind, degrees)

    def range(self, node: ast.Slice) -> slice:
        return slice(*(part and self.value(part) for part in (node.lower, node.upper, node.step)))

    # -- values -------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() as number) if number.bit_length() > _LONGEST_INTEGER:
                raise self.error(node, "the number is too large")
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node.value
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
                number = self.value(node.operand)
                return -number if isinstance(node.op, ast.USub) else number
            case ast.List() | ast.Tuple():
                return [self.value(item) for item in node.elts]
            case ast.Call(func=ast.Name(id=name)) if name in LAWS and not node.keywords:
                return self.at(node, make_law, name, *(self.plain(arg) for arg in node.args))
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        raise self.error(
            node,
            f"{self.what(node)} is not a value",
            expected="a number, a quoted word, or a law such as uniform(1, 30)",
            nearest=nearest(called, LAWS),
        )

    def plain(self, node: ast.expr) -> Any:
        value = self.value(node)
        if isinstance(value, Law | list) or value is None:
            raise self.error(node, "a law of chance takes plain values", expected="such as uniform(1, 30)")
        return value
