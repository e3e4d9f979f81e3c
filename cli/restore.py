"""`dilkit restore`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from .base import app, examples, panel
from .options import Device, TrustCode, complete_run
from .progress import Progress

EPILOG = examples("""
dilkit restore photo.jpg
dilkit restore photo.jpg --net denoise --preview
dilkit restore runs/dil/checkpoints/last.safetensors photos --out restored
dilkit restore net.safetensors scan.tif --out restored --tile 1024 --halo 64
dilkit restore net.safetensors photos --out restored --existing skip --processes 4
""")


@app.command("restore", epilog=EPILOG, rich_help_panel=panel("restore"))
def restore(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[NET] IMG|DIR...",
            help="Images and folders; before them a trained net, unless --net names one.",
            autocompletion=complete_run,
            show_default=False,
        ),
    ],
    net: Annotated[
        str | None,
        typer.Option(
            "--net",
            help="A net of `dilkit ls nets` by name, a checkpoint, a run's folder, spandrel:FILE, onnx:FILE "
            "or module:pkg.mod:Class(weights=FILE) [default: denoise].",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("restored"),
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Also write before and after, beside each other, to OUT/preview."),
    ] = False,
    tile: Annotated[
        int, typer.Option(min=0, help="Pixels of a tile's side; 0 takes every image whole.")
    ] = 512,
    halo: Annotated[
        int, typer.Option(min=0, help="Context around a tile: how far the net looks, or more.")
    ] = 32,
    feather: Annotated[
        int, typer.Option(min=1, help="Width of the zone in which tiles fade into each other.")
    ] = 16,
    existing: Annotated[
        Literal["refuse", "skip", "replace"], typer.Option(help="Outputs that are there already.")
    ] = "refuse",
    device: Device = "auto",
    trust_code: TrustCode = False,
    processes: Annotated[int, typer.Option(min=1, help="Images restored at a time.")] = 1,
) -> None:
    """Restore images with a trained net: one of your own, or one that ships with dilkit.

    Depth, grey, alpha, colour profile, EXIF and folders are kept. Inputs are never overwritten.
    """
    from dilkit.errors import DilkitError
    from dilkit.zoo import PREFIX

    chosen, inputs = split_words(words, net)
    if words[0] != chosen and net is None:
        print(f"restoring with {chosen} (--net NAME takes another; `dilkit ls nets`)", file=sys.stderr)

    from dilkit.inference.forward import Tiling
    from dilkit.inference.restore import restore as run

    tiling = Tiling(tile, halo, feather) if tile else None
    with Progress("restoring", unit="images") as count:
        outcomes = run(
            chosen, inputs, out, tiling=tiling, existing=existing, trust_code=trust_code, device=device,
            processes=processes, progress=count,
        )  # fmt: skip
    failed = [outcome for outcome in outcomes if outcome.error]
    done = [outcome.job for outcome in outcomes if not outcome.error]
    for job in done:
        print(job.target)
    if preview:
        from dilkit.inference.restore import write_preview

        label = chosen.removeprefix(PREFIX).replace("/", "-") if chosen.startswith(PREFIX) else "net"
        for job in done:
            name = job.target.relative_to(out).with_suffix(f".{label}.png")
            print(write_preview(out / "preview" / name, job.source, job.target))
    for outcome in failed:
        print(f"{outcome.job.source}: {outcome.error}", file=sys.stderr)
    if failed:
        raise DilkitError(f"{len(failed)} of {len(outcomes)} images could not be restored; the rest is done")


def split_words(words: Sequence[str], net: str | None = None) -> tuple[str, list[str]]:
    """The net and the images of `[NET] IMG|DIR...`.

    The first word is a net unless it is an image, or a folder without a checkpoint; with `--net` all are
    images. A bare name after `--net` that is no file is a net of the zoo.

    Raises:
        UsageError: no image is left, or a net stands behind an image.
    """
    from dilkit.confounders.images import SUFFIXES
    from dilkit.errors import UsageError
    from dilkit.zoo import DEFAULT, PREFIX

    def names_a_net(word: str) -> bool:
        path = Path(word).expanduser()
        if path.is_dir():
            return (path / "checkpoints").is_dir() or (path / "last.safetensors").is_file()
        return path.suffix.lower() not in SUFFIXES

    if net is not None:
        bare = not Path(net).expanduser().exists() and not set(net) & set("/\\.:=")
        return (PREFIX + net if bare else net), list(words)
    chosen, inputs = (words[0], list(words[1:])) if names_a_net(words[0]) else (PREFIX + DEFAULT, list(words))
    if not inputs:
        raise UsageError(
            "there is no image to restore",
            found=f"dilkit restore {chosen}",
            expected=f"dilkit restore {chosen} IMAGES",
        )
    late = next((word for word in inputs if Path(word).exists() and names_a_net(word)), None)
    if late is not None and chosen == PREFIX + DEFAULT:
        raise UsageError(
            f"{words[0]} is an image, where the net is expected",
            found=f"dilkit restore {' '.join(words)}",
            expected="dilkit restore CKPT IMAGES",
            remedy=f"dilkit restore {late} {' '.join(word for word in words if word != late)}",
        )
    return chosen, inputs
