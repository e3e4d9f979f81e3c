"""`dilkit invariance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import app, examples, panel
from .options import Device, Plot, TrustCode, complete_distortion, complete_run, union
from .output import show_table

EPILOG = examples("""
dilkit invariance runs/erm/checkpoints/last.safetensors --data CBSD68 --distort "awgn[5, 20, 50]"
dilkit invariance a.safetensors b.safetensors --data CBSD68 --distort "awgn[10, 50]" --plot layers.png
""")


@app.command("invariance", epilog=EPILOG, rich_help_panel=panel("invariance"))
def invariance(
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="[LABEL=]NET...", help="Nets.", autocompletion=complete_run)
    ],
    data: Annotated[list[str], typer.Option(help="Clean images; may be given again.")],
    distort: Annotated[
        list[str],
        typer.Option(
            "--distort",
            "-d",
            help="Distortions, two at least; may be given again.",
            autocompletion=complete_distortion,
        ),
    ],
    crop: Annotated[int, typer.Option(min=16, help="Side of the centre crops.")] = 96,
    limit: Annotated[int, typer.Option(min=2, help="Images at most.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the distortions' randomness.")] = 0,
    clip: Annotated[bool, typer.Option(help="Clamp the nets' input to [0, 1].")] = True,
    csv: Annotated[Path | None, typer.Option(help="Write the indices of every layer.")] = None,
    plot: Plot = None,
    trust_code: TrustCode = False,
    device: Device = "auto",
) -> None:
    """Measure how invariant the layers of nets are to the distortion, with the PSNR beside it.

    A collapsed net is perfectly invariant: read no index without the PSNR.
    """
    from dilkit.evaluation.invariance import INDICES, rank_correlations
    from dilkit.evaluation.invariance import invariance as run
    from dilkit.inference.nets import parse_nets

    found = run(
        parse_nets(checkpoints, trust_code=trust_code), data, str(union(distort)),
        crop=crop, limit=limit, seed=seed, clip=clip, device=device,
    )  # fmt: skip
    if csv is not None:
        found.layers.to_csv(csv, index=False)
    if plot is not None:
        from dilkit.report.plots import indices_over_layers, save_plots

        save_plots({"": indices_over_layers(found.layers)}, plot)
    for net, part in found.layers.groupby("net", sort=False):
        lines = [
            [str(row["layer"]), *(f"{row[name]:.3f}" for name in INDICES)] for row in part.to_dict("records")
        ]
        show_table(["layer", *INDICES], lines, title=str(net))
        print()
    names = [name for name in found.nets.columns if name != "net"]
    lines = [
        [str(row["net"]), *(f"{row[name]:.3f}" for name in names)] for row in found.nets.to_dict("records")
    ]
    show_table(["net", *names], lines)
    if len(found.nets) >= 4:
        ranks = rank_correlations(found.layers, found.nets)
        lines = [
            [f"{row['index']}, {row['layer']}", f"{row['correlation']:+.2f}", f"{row['p']:.3f}"]
            for row in ranks.to_dict("records")
        ]
        print()
        show_table(
            ["index", "rank correlation with unseen PSNR", "p"], lines, title=f"{len(found.nets)} nets"
        )
