"""Write the sources of the documentation site to build/docs: the pages of docs/, and generated ones.

    python docs/build.py && mkdocs build --strict -f build/mkdocs.yml     # what `make docs` does

Generated: the API reference, the keys of a recipe from its schema, the commands from Typer, and a gallery of
every distortion at five degrees on a photograph that scikit-image ships. Nothing is downloaded.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image

import dilkit
from dilkit.distortions import REGISTRY, PrimitiveKind, SampleKey, as_float, pixel_hash
from dilkit.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "docs"
SECTIONS: dict[str, list[str]] = {
    "": ["index.md"],
    "Tutorials": ["tutorials/your-own-net.md", "tutorials/your-camera.md", "tutorials/settle-an-argument.md"],
    "How to": ["how-to/*.md", "from-*.md"],
    "Concepts": [
        "method.md",
        "distortions.md",
        "gallery.md",
        "datasets.md",
        "training.md",
        "evaluation.md",
        "generalisation.md",
        "results.md",
        "reliability.md",
        "*.md",
    ],
    "Reference": ["reference/*.md", "glossary.md"],
    "For developers": ["architecture.md", "contributing.md", "changelog.md"],
}
"""The site's menu; a pattern takes what no other section names."""


def main() -> None:
    """Write everything, and a mkdocs.yml with the menu."""
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(
        ROOT / "docs", OUT, ignore=shutil.ignore_patterns("build.py", "pictures.py", "__pycache__")
    )
    write("index.md", index())
    write("contributing.md", (ROOT / "CONTRIBUTING.md").read_text())
    write("changelog.md", (ROOT / "CHANGELOG.md").read_text())
    write("reference/api.md", api())
    write("reference/recipe.md", recipe_reference())
    write("reference/commands.md", commands())
    write("gallery.md", gallery())
    for page in sorted((OUT / "tutorials").glob("*.md")):
        (OUT / "tutorials" / f"{page.stem}.ipynb").write_text(notebook(page.read_text()))
        write(f"tutorials/{page.name}", f"{page.read_text()}\n[This page as a notebook]({page.stem}.ipynb)\n")
    menu = json.dumps(navigation(), indent=1)
    (ROOT / "build" / "mkdocs.yml").write_text(
        f"INHERIT: ../mkdocs.yml\ndocs_dir: docs\nsite_dir: site\nnav: {menu}\n"
    )


def write(name: str, text: str) -> None:
    """A page of the site."""
    (OUT / name).parent.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(text, encoding="utf-8")


def navigation() -> list[dict[str, list[str]] | str]:
    """The menu: each page once, in the order of SECTIONS."""
    named = {page for pages in SECTIONS.values() for page in pages if "*" not in page}
    menu: list[dict[str, list[str]] | str] = []
    taken: set[str] = set()
    for title, patterns in SECTIONS.items():
        pages: list[str] = []
        for pattern in patterns:
            found = sorted(str(p.relative_to(OUT)) for p in OUT.glob(pattern))
            pages += [p for p in found if p not in taken and ("*" not in pattern or p not in named)]
            taken |= set(pages)
        menu += [{title: pages}] if title else pages
    return menu


def index() -> str:
    """The README, with its links as the site has them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    text = text.replace("](CHANGELOG.md)", "](changelog.md)").replace(
        "](CONTRIBUTING.md)", "](contributing.md)"
    )
    return re.sub(r"\[([^]]+)\]\((?:LICENSE|CITATION\.cff|SECURITY\.md)\)", r"\1", text)


def notebook(page: str) -> str:
    """A tutorial as a Jupyter notebook: its prose and its Python, cell by cell."""
    cells = []
    for i, part in enumerate(re.split(r"^```(?:python\n|$)", page, flags=re.M)):
        body = part.strip("\n")
        if body:
            extra = {"execution_count": None, "outputs": []} if i % 2 else {}
            cells.append(
                {"cell_type": "code" if i % 2 else "markdown", "metadata": {}, "source": body, **extra}
            )
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}, indent=1)


ROOMS = {"meta": "dilkit.meta.api.decorate", "report": "dilkit.report.page.build_report"}
"""Names of `dilkit` that are rooms and may be called: what they then call."""


def api() -> str:
    """Every public name, from its docstring."""
    lines = ["# API", "", "Everything a command does is a name of `dilkit`.", ""]
    for name in sorted(set(dilkit.__all__) - {"__version__"}, key=str.lower):
        value = getattr(dilkit, name)
        target = f"{value.__module__}.{value.__qualname__}" if not inspect.ismodule(value) else ROOMS[name]
        target = target.replace("dilkit.cli.", "cli.")  # where it lies in the checkout
        lines += [f"::: {target}", f"    options: {{heading: dilkit.{name}, heading_level: 2}}", ""]
    rooms = {
        "Distortions": "dilkit.distortions",
        "Virtual updates": "dilkit.meta",
        "Objectives": "dilkit.objectives",
        "Models": "dilkit.models",
    }
    for title, room in rooms.items():
        module = __import__(room, fromlist=["__all__"])
        lines += [f"## {title}: {room}", ""]
        for name in module.__all__:
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith(
                "dilkit"
            ):
                lines += [f"::: {value.__module__}.{value.__qualname__}", ""]
    lines += [
        "## Metrics: dilkit.metrics",
        "",
        "::: dilkit.metrics",
        "    options: {show_root_heading: false}",
        "",
    ]
    lines += ["## Checks for plug-ins: dilkit.testing", "", "::: dilkit.testing"]
    return "\n".join([*lines, "    options: {show_root_heading: false}", ""])


def recipe_reference() -> str:
    """Every key of a recipe: type, default, range and meaning, from the schema that checks it."""
    from dilkit.models import MODELS
    from dilkit.objectives import configs
    from dilkit.recipe import Recipe

    schema = Recipe.model_json_schema(by_alias=True)
    lines = [
        "# Recipe",
        "",
        "Every key of a recipe. `dilkit recipes schema` prints the JSON schema for editors.",
        "",
    ]
    lines += ["## The recipe", "", *table(schema, schema.get("$defs", {}))]
    for path, section in sections(schema, schema.get("$defs", {})):
        lines += [
            f"## {path}",
            "",
            section.get("description", ""),
            "",
            *table(section, schema.get("$defs", {})),
        ]
    for title, found in (("model", {name: MODELS.get(name) for name in MODELS}), ("objective", configs())):
        lines += [f"## {title}, by name", ""]
        for name, config in found.items():
            own = config.model_json_schema()
            lines += [f"### {title}.name = {name}", "", own.get("description", ""), ""]
            lines += table(own, own.get("$defs", {}))
            for path, section in sections(own, own.get("$defs", {}), f"{title}."):
                lines += [f"#### {path}", "", *table(section, own.get("$defs", {}))]
    return "\n".join(lines) + "\n"


def sections(
    schema: dict[str, Any], definitions: dict[str, Any], above: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every section below a schema, by its path: `data`, `data.orbit`; one for each choice that there is."""
    for key, node in schema.get("properties", {}).items():
        for option in (node, *node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
            if "$ref" not in option:
                continue
            section = definitions[option["$ref"].rpartition("/")[2]]
            if section.get("properties"):
                name = section["properties"].get("name", {}).get("const")
                yield f"{above}{key}" + (f", name = {name}" if name else ""), section
                yield from sections(section, definitions, f"{above}{key}.")


def table(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """The properties of a section as a Markdown table."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, node in schema.get("properties", {}).items():
        default = (
            ("" if isinstance(node["default"], dict) else json.dumps(node["default"]))
            if "default" in node
            else "required"
            if key in schema.get("required", ())
            else ""
        )
        meaning = " ".join(str(node.get("description", "")).split())
        cells = (f"`{key}`", kind_of(node, definitions), f"`{default}`" if default else "", meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*rows, ""]


def kind_of(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A type in words: `integer, at least 1`, `one of paired, independent`."""
    if "$ref" in node:
        return "section"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(kind_of(option, definitions) for option in options))
    if node.get("type") == "object" and "name" in node.get("properties", {}):
        return "section, by its name"
    words = [str(node.get("type", "any"))]
    if node.get("type") == "array" and "items" in node:
        words = [f"list of {kind_of(node['items'], definitions)}"]
    names = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    words += [f"{name} {node[key]}" for key, name in names.items() if key in node]
    return ", ".join(words)


def commands() -> str:
    """Every command: what it does, its options by group, its examples."""
    from dilkit.cli.app import app

    lines = ["# Commands", "", "What `dilkit COMMAND --help` says, in one place.", ""]
    for path, command in walk(typer.main.get_command(app), ()):
        lines += [f"## dilkit {' '.join(path)}", "", inspect.cleandoc(command.help or ""), ""]
        groups: dict[str, list[str]] = {}
        for parameter in command.params:
            if parameter.name == "help" or getattr(parameter, "hidden", False):
                continue
            option = parameter.param_type_name == "option"
            names = (
                ", ".join([*parameter.opts, *parameter.secondary_opts])
                if option
                else parameter.metavar or parameter.name
            )
            default = parameter.default
            plain = isinstance(default, (str, int, float)) and default is not False and default != ""
            shown = f" Default: `{default}`." if plain else ""
            title = getattr(parameter, "rich_help_panel", None) or ("Options" if option else "Arguments")
            groups.setdefault(title, []).append(f"- `{names}`: {parameter.help or ''}{shown}")
        for title, rows in groups.items():
            lines += [f"**{title}**", "", *rows, ""]
        if command.epilog:
            lines += [inspect.cleandoc(command.epilog).replace("Examples:", "**Examples**"), ""]
    return "\n".join(lines)


def walk(group: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every visible command of a Typer group, in order."""
    for name in group.list_commands(None):
        command = group.commands[name]
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            yield from walk(command, (*above, name))
        else:
            yield (*above, name), command


def gallery() -> str:
    """Every distortion with a degree, at five degrees, on one photograph."""
    from skimage import data

    clean = np.ascontiguousarray(data.astronaut()[30:190, 150:310])
    image, key = as_float(clean), SampleKey(0, pixel_hash(clean))
    (OUT / "gallery").mkdir(parents=True, exist_ok=True)
    lines = ["# Gallery", "", "Every distortion with a degree, weak to strong; made by `docs/build.py`.", ""]
    family = ""
    for kind in sorted((REGISTRY.get(name) for name in REGISTRY.names), key=lambda k: (k.family, k.name)):
        if kind.degree is None:
            continue
        pictures = []
        for value in degrees(kind):
            try:
                made = kind(**{**kind.example(), kind.degree: value}).apply(image, key)
            except UsageError as error:  # not every size can be halved four times
                print(f"gallery: {kind.name}({value}): {error.message}")
                continue
            file = f"gallery/{kind.name}-{value:g}.png"
            Image.fromarray(np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)).save(
                OUT / file, optimize=True
            )
            pictures.append(
                f'<figure style="margin:0;width:19%"><img src="{file}" alt="{kind.name}({value:g})">'
                f"<figcaption>{value:g}</figcaption></figure>"
            )
        if not pictures:
            continue
        if kind.family != family:
            family = kind.family
            lines += [f"## {family}", ""]
        lines += [f"### {kind.name}", "", f"{kind.summary} By its degree, `{kind.degree}`:", ""]
        lines += ['<div style="display:flex;justify-content:space-between">', *pictures, "</div>", ""]
    return "\n".join(lines)


SHOWN: dict[str, tuple[float, ...]] = {
    "awgn": (5, 15, 25, 35, 50),
    "speckle": (0.05, 0.1, 0.2, 0.3, 0.5),
    "poisson": (1, 2, 3, 4, 6),
    "gaussian_blur": (0.5, 1, 2, 3, 5),
    "jpeg": (80, 50, 30, 15, 5),
    "webp": (80, 50, 30, 15, 5),
    "defocus": (1, 2, 3, 5, 7),
    "motion_blur": (5, 9, 13, 19, 25),
    "box_blur": (3, 5, 7, 11, 15),
    "generalised_blur": (0.5, 1, 2, 3, 5),
    "plateau_blur": (0.5, 1, 2, 3, 5),
    "downsample": (2, 4, 5, 8, 10),
    "updown": (0.8, 0.6, 0.5, 0.3, 0.2),
    "resize": (0.8, 0.6, 0.5, 0.3, 0.2),
    "gamma": (0.5, 0.8, 1.3, 1.8, 2.5),
    "contrast": (0.3, 0.6, 0.8, 1.3, 1.8),
    "saturate": (0, 0.3, 0.6, 1.5, 2),
    "pixelate": (0.8, 0.6, 0.5, 0.3, 0.2),
    "sinc": (2.6, 2.0, 1.5, 1.0, 0.7),
    "low_light": (1.5, 2, 2.5, 3, 4),
    "anisotropic_blur": (1, 2, 3, 4, 6),
    "glass_blur": (1, 2, 3, 4, 6),
    "zoom_blur": (1.03, 1.06, 1.1, 1.15, 1.25),
    "correlated_noise": (10, 20, 30, 50, 80),
    "camera_noise": (0.002, 0.005, 0.01, 0.02, 0.04),
    "brightness": (-0.3, -0.15, 0.1, 0.2, 0.35),
    "fog": (0.2, 0.5, 1, 1.5, 2),
    "haze": (0.9, 0.7, 0.5, 0.35, 0.2),
    "rain": (0.001, 0.003, 0.005, 0.01, 0.02),
    "snow": (0.6, 0.4, 0.3, 0.2, 0.1),
    "elastic": (10, 20, 40, 60, 90),
    "frost": (0.1, 0.2, 0.3, 0.45, 0.6),
}
"""Degrees shown, from weak to strong, where equal parts of the range would not tell much."""


def degrees(kind: PrimitiveKind) -> list[float]:
    """Five degrees from weak to strong."""
    if kind.name in SHOWN:
        return list(SHOWN[kind.name])
    [param] = [p for p in kind.params if p.name == kind.degree]
    if param.choices:
        return [c for c in param.choices[:5] if isinstance(c, (int, float))]
    if param.type not in (int, float):
        return []
    low, high = max(param.low, -1e3), min(param.high, 1e3)
    values = [low + (high - low) * share for share in (0.02, 0.05, 0.1, 0.2, 0.4)]
    return list(dict.fromkeys(round(v) if param.type is int else float(f"{v:.2g}") for v in values))


if __name__ == "__main__":
    main()
