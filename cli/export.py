"""`dilkit export` and `dilkit card`: a net for other programs, and for other people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import app, examples, panel
from .options import NetSource, TrustCode

EPILOG = examples("""
dilkit export runs/dil/checkpoints/last.safetensors --onnx net.onnx
dilkit export runs/dil/checkpoints/last.safetensors --torchscript net.pt --safetensors net.safetensors
""")


@app.command("export", epilog=EPILOG, rich_help_panel=panel("export"))
def export(
    net: NetSource,
    onnx: Annotated[Path | None, typer.Option(help="Write ONNX (.onnx), for any batch and size.")] = None,
    torchscript: Annotated[Path | None, typer.Option(help="Write TorchScript (.pt or .ts).")] = None,
    safetensors: Annotated[
        Path | None, typer.Option(help="Write weights and recipe, without what training needs.")
    ] = None,
    to: Annotated[
        list[Path] | None, typer.Option(help="Write the format of the file's ending, plug-ins included.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Write a net for other programs, and check it against the net on random shapes."""
    from dilkit.errors import UsageError
    from dilkit.inference.export import EXPORTERS
    from dilkit.inference.export import export as run

    endings = {name: EXPORTERS.get(name).suffixes for name in ("onnx", "torchscript")}
    endings["safetensors"] = (".safetensors",)
    wanted = {"onnx": onnx, "torchscript": torchscript, "safetensors": safetensors}
    if not any(wanted.values()) and not to:
        raise UsageError("nothing to write", remedy="give --onnx, --torchscript or --safetensors FILE")
    for kind, path in wanted.items():
        if path is not None and path.suffix not in endings[kind]:
            raise UsageError(f"--{kind} needs another ending", where=path, expected=", ".join(endings[kind]))
    for path in [*filter(None, wanted.values()), *(to or ())]:
        difference = run(net, path, trust_code=trust_code)
        print(f"{path}  largest difference to the net {difference:.1e}")


_CARD = examples("""
dilkit card runs/dil
dilkit card runs/dil --rows rows.json --out CARD.md
""")


@app.command("card", epilog=_CARD, rich_help_panel=panel("card"))
def card(
    net: NetSource,
    rows: Annotated[
        Path | None, typer.Option(help="Rows of `dilkit eval`, for how it restores and where it fails.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the card to this .md file [stdout].")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Write the card of a net in Markdown: what it is, what it saw, how it restores, where it fails."""
    from dilkit.evaluation.rows import read_rows
    from dilkit.report.model_card import model_card

    text = model_card(net, None if rows is None else read_rows(rows), trust_code=trust_code)
    if out is None:
        print(text, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(out)
