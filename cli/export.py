"""`dilkit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import app, panel
from .options import NetSource, TrustCode

EPILOG = """
Examples:

`dilkit export runs/dil/checkpoints/last.safetensors --onnx net.onnx`

`dilkit export runs/dil/checkpoints/last.safetensors --torchscript net.pt --safetensors net.safetensors`
"""


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
