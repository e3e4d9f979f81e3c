"""`dilkit eval`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .base import app, examples, panel
from .options import Data, Device, Distort, Plot, TrustCode, check_figure, complete_run, grouped, union
from .output import show_json, show_table
from .progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from dilkit.evaluation.protocols import Protocol
    from dilkit.evaluation.references import Printed


EPILOG = examples("""
dilkit eval runs/erm/checkpoints/last.safetensors --data CBSD68 --distort "awgn[5, 10, 15, 20, 30, 40, 50]"
dilkit eval erm=a.safetensors dil=b.safetensors --data Set5 --distort "awgn(50) | jpeg(30)" --baseline erm
dilkit eval a.safetensors --protocol denoise-awgn --data CBSD68 --csv rows.csv
dilkit eval runs/erm --protocol denoise-awgn --reference paper --plot psnr
dilkit eval runs/erm "spandrel:drunet.pth@sigma=true" --data CBSD68 --distort "awgn[15, 25, 50]"
dilkit eval a.safetensors b.safetensors --protocol unseen-40 --data CBSD68 --gap-to best
dilkit eval --data CBSD68 --distort "awgn[15, 25, 50]" --no-clip --noise legacy-numpy
""")

_test, _input, _comparison, _output = map(
    grouped, ("The test", "The nets' input", "The comparison", "What is written")
)


@app.command("eval", epilog=EPILOG, rich_help_panel=panel("eval"))
def evaluate(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[LABEL=]NET...]",
            help="Checkpoints, run folders, zoo:NAME, spandrel:FILE, onnx:FILE, "
            "module:pkg.mod:Class(weights=FILE); none measures the input alone.",
            autocompletion=complete_run,
        ),
    ] = None,
    data: Data = None,
    distort: Distort = None,
    device: Device = "auto",
    batch: Annotated[int | None, typer.Option(min=1, help="Inputs of one shape per forward pass.")] = None,
    protocol: Annotated[
        str | None, _test(help="A protocol by name (see `dilkit ls protocols`) or from a .yaml file.")
    ] = None,
    inputs: Annotated[
        Path | None, _test(help="Real distorted images, named as the clean ones, instead of --distort.")
    ] = None,
    seed: Annotated[int | None, _test(min=0, help="Seed of the distortions' randomness.")] = None,
    noise: Annotated[
        Literal["keyed", "legacy-numpy"] | None,
        _test(help="Keyed by image (default), or that of common benchmark scripts (awgn only)."),
    ] = None,
    draws: Annotated[int | None, _test(min=1, help="Draws of each random distortion.")] = None,
    clip: Annotated[
        bool | None, _input("--clip/--no-clip", help="Clamp the nets' input to [0, 1] (default).")
    ] = None,
    quantize: Annotated[
        bool | None, _input("--quantize/--no-quantize", help="Round the nets' input to 8 bits.")
    ] = None,
    channel: Annotated[
        Literal["rgb", "y"] | None, _comparison(help="Compare colours (default), or luma.")
    ] = None,
    border: Annotated[int | None, _comparison(min=0, help="Pixels left out at every side.")] = None,
    measure: Annotated[
        Literal["uint8", "clipped", "float"] | None,
        _comparison(help="Compare images rounded to 8 bits (default), clamped only, or as they are."),
    ] = None,
    metric: Annotated[
        list[str] | None, _comparison(help="A further metric of `dilkit ls metrics`; again for more.")
    ] = None,
    baseline: Annotated[
        str | None, _comparison(help="Also print scores, and differences to this net, with intervals.")
    ] = None,
    reference: Annotated[
        str | None, _comparison(help="Printed numbers to show beside: paper, idf, classic or all.")
    ] = None,
    gap_to: Annotated[
        str | None,
        _comparison(help="Also print the gap to the best of these nets, LABEL,LABEL; `best`: of all here."),
    ] = None,
    trust_code: TrustCode = False,
    csv: Annotated[Path | None, _output(help="Write the per-image rows.")] = None,
    parquet: Annotated[Path | None, _output(help="Write the per-image rows.")] = None,
    json_file: Annotated[
        str | None,
        _output(
            "--json",
            metavar="FILE",
            help="Write settings, means and rows; - prints them instead of the table.",
        ),
    ] = None,
    table: Annotated[Path | None, _output(help="Write the table as Markdown.")] = None,
    plot: Plot = None,
    crops: Annotated[
        Path | None,
        _output(
            help="Show input, outputs and clean image of a crop under an unseen degree and an unseen type.",
            callback=check_figure,
        ),
    ] = None,
) -> None:
    """Measure nets on distorted images: PSNR and SSIM, seen and unseen distortions told apart.

    Cut short, a run that writes rows to a FILE goes on where it stopped (FILE.part keeps them meanwhile).
    """
    for path, endings in ((csv, ".csv"), (parquet, ".parquet"), (table, ".md")):
        _check_ending(path, endings)
    changes = {
        "clip": clip, "quantize": quantize, "seed": seed, "noise": noise, "draws": draws, "channel": channel,
        "border": border, "measure": measure, "distort": union(distort),
    }  # fmt: skip
    how, sources = plan_protocol(protocol, changes, data, inputs)

    from dilkit.evaluation.bootstrap import check_arm
    from dilkit.evaluation.grid import evaluate as run
    from dilkit.evaluation.protocols import missing_sets
    from dilkit.evaluation.references import find_references
    from dilkit.evaluation.rows import SETTINGS, as_json, write_rows
    from dilkit.inference.nets import INPUT, open_nets, parse_nets

    nets = parse_nets(checkpoints or [INPUT], trust_code=trust_code)
    if reference is not None:
        find_references(reference, (), ())
    labels = [net.label for net in nets]
    rivals = labels if gap_to == "best" else [name.strip() for name in (gap_to or "").split(",") if name]
    for name, where in ((baseline, "baseline"), *((rival, "gap-to") for rival in rivals)):
        if name is not None:
            check_arm(name, labels, where)
    files = [path for path in (csv, parquet, Path(json_file or "-")) if path and str(path) != "-"]
    journal = files[0].with_name(files[0].name + ".part") if files else None
    with Progress("evaluating", unit="images") as count:
        rows = run(
            nets, sources, inputs=inputs, **how.settings(), device=device,
            metrics=metric or (), batch=batch, journal=journal, progress=count,
        )  # fmt: skip
    rows.attrs[SETTINGS]["protocol"] = how.title if protocol else None
    rows.attrs[SETTINGS]["not_measured"] = missing_sets(how, rows["set"]) if protocol else []
    for path in files:
        write_rows(rows, path)
    beside: Sequence[Printed] = ()
    if reference is not None:
        beside = find_references(reference, rows["set"].unique(), rows["distortion"].unique())
    if table is not None:
        from dilkit.evaluation.tables import markdown

        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(markdown(rows, beside, rivals), encoding="utf-8")
    if plot is not None:
        from dilkit.report.plots import figures_of_rows, save_plots

        save_plots(figures_of_rows(rows), plot)
    if crops is not None:
        from dilkit.devices import pick_device
        from dilkit.report.crops import unseen_crops
        from dilkit.report.plots import crops_side_by_side, save_plots

        opened = open_nets(nets, pick_device(device))
        shown = unseen_crops(rows, opened, sources, rows.attrs[SETTINGS])
        save_plots({"": crops_side_by_side(shown)}, crops)
    if json_file == "-":
        show_json(as_json(rows))
        return
    _show(rows, beside)
    if baseline is not None:
        _show_scores(rows, baseline)
    if rivals:
        from dilkit.evaluation.tables import gap_tables

        for title, head, lines in gap_tables(rows, rivals):
            print()
            show_table(head, lines, title=title)


def _check_ending(path: Path | None, endings: str) -> None:
    from dilkit.errors import UsageError

    if path is not None and path.suffix not in endings.split():
        raise UsageError("the ending of the file does not say what it holds", where=path, expected=endings)


def plan_protocol(
    name: str | None, changes: dict[str, Any], data: list[str] | None, inputs: Path | None
) -> tuple[Protocol, list[Any]]:
    """The protocol, named or made of the options, and the sources of clean images.

    Says on stderr which sets of a named protocol are not there.
    """
    from dilkit.errors import UsageError
    from dilkit.evaluation.protocols import (
        Protocol,
        find_protocol,
        find_sets,
        missing_sets,
        other_sets,
        source_of,
    )

    how = find_protocol(name) if name else Protocol(name="options")
    if name and data:
        changes["sets"] = other_sets(how, [source_of(how, text) for text in data])
    how = how.changed(changes)
    sources: list[Any] = [source_of(how, text) for text in data or ()]
    sources = sources or list(find_sets(how) if name else ())
    if name and not data and (gone := missing_sets(how, [source.name for source in sources])):
        print(f"dilkit: not there, so not measured of {how.name}: {', '.join(gone)}", file=sys.stderr)
    if inputs is not None and how.distort is not None:
        raise UsageError("give --distort or --inputs, not both")
    if not sources or (how.distort is None and inputs is None and how.pairs is None):
        missing = "data" if not sources else "distort"
        raise UsageError(
            f"--{missing} is missing", remedy='for example --data CBSD68 --distort "awgn[15, 25]"'
        )
    return how, sources


def _show(rows: pd.DataFrame, printed: Sequence[Printed] = ()) -> None:
    from dilkit.evaluation.protocols import check_manifest
    from dilkit.evaluation.references import reference_notes
    from dilkit.evaluation.tables import extra_metrics, shortened, tables

    checked, metrics = check_manifest(rows), ("psnr", "ssim", *extra_metrics(rows))

    def cell(row: Any, prefix: str) -> str:
        return " ".join(f"{row[prefix + name]:.4f}" for name in metrics)

    what = ", ".join(["PSNR in dB", "SSIM", *metrics[2:]])
    for name, images, head, lines in tables(rows, printed, cell):
        title = f"{name} ({images} image{'s' * (images != 1)}; {checked[name]}): {what}"
        show_table(head, lines, title=title)
        print()
    for line in [*_notes(rows), *shortened(rows), *reference_notes(printed)]:
        print(line)


def _notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know: leaks, marks, and the whole protocol."""
    from dilkit.evaluation.rows import SETTINGS
    from dilkit.evaluation.tables import legend, remarks, settings_line

    s = rows.attrs[SETTINGS]
    said = remarks(rows)
    said += [f"{net}: trained on {about['trained']}" for net, about in s["nets"].items() if about["trained"]]
    said += [text.rstrip(".") for text in legend(rows)]
    return [*said, *([f"protocol {s['protocol']}"] if s["protocol"] else []), settings_line(s)]


def _show_scores(rows: pd.DataFrame, baseline: str) -> None:
    from dilkit.evaluation.bootstrap import scores

    table = scores(rows, baseline=baseline)
    for name, part in table.groupby("set", sort=False):
        lines = [
            [
                f"{row.score}, {row.arm}", f"{row.value:.2f}", f"{row.low:.2f} to {row.high:.2f}",
                f"{row.difference:+.2f}", f"{row.difference_low:+.2f} to {row.difference_high:+.2f}",
            ]
            for row in part.sort_values("score", kind="stable").itertuples()
        ]  # fmt: skip
        print()
        header = ["score", "PSNR", "95 % interval", f"minus {baseline}", "95 % interval"]
        show_table(header, lines, title=str(name))
