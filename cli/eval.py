"""`dilkit eval`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .app import app


class Channel(StrEnum):
    rgb = "rgb"
    y = "y"


class Measure(StrEnum):
    uint8 = "uint8"
    clipped = "clipped"
    float = "float"


class Noise(StrEnum):
    keyed = "keyed"
    legacy = "legacy-numpy"


_EPILOG = """
Examples:

`dilkit eval runs/erm/checkpoints/last.safetensors --data CBSD68 --distort "awgn[5, 10, 15, 20, 30, 40, 50]"`

`dilkit eval erm=a.safetensors dil=b.safetensors --data Set5 --distort "awgn(50) | jpeg(30)" --csv rows.csv`

`dilkit eval --data CBSD68 --distort "awgn[15, 25, 50]" --no-clip --noise legacy-numpy`
"""


@app.command("eval", epilog=_EPILOG)
def evaluate(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[LABEL=]CKPT...]",
            help="Checkpoints; none measures the input alone.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Clean images: a folder, glob, file or samples:test; may be given again."),
    ] = None,
    distort: Annotated[
        list[str] | None, typer.Option(help="Distortions, as an expression; given again, all of them.")
    ] = None,
    clip: Annotated[bool, typer.Option(help="Clamp the nets' input to [0, 1].")] = True,
    quantize: Annotated[bool, typer.Option(help="Round the nets' input to 8 bits.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the distortions' randomness.")] = 0,
    noise: Annotated[
        Noise, typer.Option(help="Keyed by image, or that of common benchmark scripts (awgn only).")
    ] = Noise.keyed,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each random distortion.")] = 1,
    channel: Annotated[Channel, typer.Option(help="Compare colours, or luma.")] = Channel.rgb,
    border: Annotated[int, typer.Option(min=0, help="Pixels left out at every side.")] = 0,
    measure: Annotated[
        Measure, typer.Option(help="Compare images rounded to 8 bits, clamped only, or as they are.")
    ] = Measure.uint8,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A further metric: ms_ssim, lpips, dists, niqe; may be given again."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch: Annotated[int | None, typer.Option(min=1, help="Inputs of one shape per forward pass.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the per-image rows.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the per-image rows.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the table, as Markdown.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw PSNR against degree, the seen range shaded (.png, .svg, .pdf).")
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write settings, means and rows; - prints them instead of the table.",
        ),
    ] = None,
) -> None:
    """Measure nets on distorted images: PSNR and SSIM, seen and unseen distortions told apart.

    Cut short, a run that writes rows to a FILE goes on where it stopped (FILE.part keeps them meanwhile).
    """
    from dilkit.errors import UsageError

    if not data or not distort:
        raise UsageError(
            f"--{'distort' if data else 'data'} is missing",
            remedy='for example --data CBSD68 --distort "awgn[15, 25, 50]"',
        )
    for path, suffix in ((csv, ".csv"), (parquet, ".parquet"), (table, ".md")):
        if path is not None and path.suffix != suffix:
            raise UsageError("the ending of the file does not say what it holds", where=path, expected=suffix)

    from dilkit.evaluation import evaluate as run
    from dilkit.evaluation.nets import INPUT, parse_nets
    from dilkit.evaluation.rows import write_rows

    from ._count import Count

    files = [path for path in (csv, parquet, Path(json_file or "-")) if path and str(path) != "-"]
    journal = files[0].with_name(files[0].name + ".part") if files else None
    with Count("evaluating") as count:
        rows = run(
            parse_nets(checkpoints or [INPUT]), data, distort,
            clip=clip, quantize=quantize, seed=seed, noise=noise.value, draws=draws, channel=channel.value,
            border=border, measure=measure.value, device=device, metrics=metric or (), batch=batch,
            journal=journal, progress=count,
        )  # fmt: skip
    for path in files:
        write_rows(rows, path)
    if json_file == "-":
        from dilkit.evaluation.rows import as_json

        print(json.dumps(as_json(rows), indent=1, allow_nan=False))
    else:
        from dilkit.report.tables import legend, result_tables

        from ._table import show_table

        for each in result_tables(rows):
            show_table(each.head, each.lines, title=each.title)
            print()
        print(legend(rows))
    if table is not None:
        from dilkit.report.tables import as_markdown

        table.write_text(as_markdown(rows), encoding="utf-8")
    if plot is not None:
        from dilkit.report.plots import psnr_against_degree

        psnr_against_degree(rows).savefig(plot, dpi=150)
