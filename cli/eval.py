"""`dilkit eval`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import app

if TYPE_CHECKING:
    import pandas as pd


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
    for path, suffix in ((csv, ".csv"), (parquet, ".parquet")):
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
        _show(rows)


_MARKS = {"seen": "", "degree": "*", "type": "†", "clean": "", "unknown": ""}


def _show(rows: pd.DataFrame) -> None:
    from dilkit.evaluation.rows import SETTINGS
    from dilkit.evaluation.scores import by_distortion, by_novelty

    from ._table import show_table

    means = by_distortion(rows)
    for name, part in means.groupby("set", sort=False):
        nets = [net for net in dict.fromkeys(part["net"]) if net != "input"]
        head = ["distortion", "input", *nets]
        lines = []
        for label, cells in part.groupby("distortion", sort=False):
            by_net = cells.set_index("net")
            first = by_net.iloc[0]
            marked = [
                _cell(by_net.loc[net], "psnr", "ssim") + _MARKS[by_net.loc[net, "novelty"]] for net in nets
            ]
            lines.append([str(label), _cell(first, "input_psnr", "input_ssim"), *marked])
        for what, psnr in by_novelty(rows[rows["set"] == name]).items():
            lines.append([f"mean, {what}", "", *(f"{psnr[net]:.2f}" if net in psnr else "" for net in nets)])
        images = int(part["images"].iloc[0])
        show_table(head, lines, title=f"{name} ({images} image{'s' * (images != 1)}): PSNR in dB, SSIM")
        print()
    print(_legend(rows.attrs[SETTINGS], set(means["novelty"])))


def _cell(row: Any, psnr: str, ssim: str) -> str:
    return f"{row[psnr]:.4f} {row[ssim]:.4f}"


def _legend(settings: dict[str, Any], novelties: set[str]) -> str:
    marks = {"degree": "* degree not trained on", "type": "† type not trained on"}
    said = [text for kind, text in marks.items() if kind in novelties]
    said.append(
        f"input {'clipped' if settings['clip'] else 'not clipped'},"
        f" {'rounded to 8 bits' if settings['quantize'] else 'not rounded'}"
    )
    said.append(f"{settings['noise']} noise, seed {settings['seed']}, draws {settings['draws']}")
    said.append(f"{settings['channel']}, border {settings['border']}, measured {settings['measure']}")
    return "; ".join(said)
