"""Protocols: everything about a test but the net, by name and version; and those that come with dilkit.

A protocol's version is raised when any of its numbers change, so that two tables which name one protocol can
be compared. Images are not shipped: a set is a folder of that name; its manifest tells if it is the same one.
Where a source does not print a number, the summary says that the number is ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dilkit.distortions import confounder_set
from dilkit.distortions.presets import PRESETS
from dilkit.errors import UsageError, nearest
from dilkit.evaluation.degrade import Degradation, Noise
from dilkit.evaluation.testsets import Data, PairFolder, find_images
from dilkit.metrics import Channel, Measure
from dilkit.registry import Registry

if TYPE_CHECKING:
    import pandas as pd


class Protocol(BaseModel):
    """How nets are tested.

    Attributes:
        sets: names of the test sets' folders.
        distort: the distortions; None where the inputs are real images, taken in pairs with clean ones.
        pairs: where the pairs lie in a set's folder: the folders of the clean and of the distorted images.
        trained: what the source trains on (for the reader; seen and unseen come from each net's own recipe).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(default=1, ge=1)
    summary: str = ""
    source: str = ""
    sets: tuple[str, ...] = ()
    distort: str | None = None
    pairs: tuple[str, str] | None = None
    trained: str | None = None
    clip: bool = True
    quantize: bool = False
    seed: int = Field(default=0, ge=0)
    noise: Noise = "keyed"
    draws: int = Field(default=1, ge=1)
    channel: Channel = "rgb"
    border: int = Field(default=0, ge=0)
    measure: Measure = "uint8"

    @property
    def title(self) -> str:
        """`denoise-awgn v1 (3f2a91c0)`: name, version, and the hash of everything that moves a number."""
        return f"{self.name} v{self.version} ({self.hash})"

    @property
    def hash(self) -> str:
        said = {"name", "version", "summary", "source", "trained"}
        numbers = self.model_dump(exclude=said if self.pairs else {*said, "pairs"})
        return blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=4).hexdigest()

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of `evaluate`."""
        names = ("distort", "clip", "quantize", "seed", "noise", "draws", "channel", "border", "measure")
        return {name: getattr(self, name) for name in names}

    def changed(self, changes: Mapping[str, Any]) -> Protocol:
        """The protocol with other values; if any differs, its name says that it is no longer itself."""
        given = {key: value for key, value in changes.items() if value is not None}
        if all(value == getattr(self, key) for key, value in given.items()):
            return self
        name = self.name.removesuffix("-changed") + "-changed"
        return validate_protocol({**self.model_dump(), **given, "name": name})


def validate_protocol(raw: Mapping[str, Any], where: object = "protocol") -> Protocol:
    """Raises UsageError with the key, what was found and the nearest valid name."""
    try:
        return Protocol.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"the protocol is wrong at {key}: {first['msg']}",
            where=where,
            found=first["input"],
            nearest=nearest(key, Protocol.model_fields) if first["type"] == "extra_forbidden" else None,
        ) from None


def find_protocol(name: str) -> Protocol:
    """A registered protocol by name, or one from a YAML file.

    Raises:
        UsageError: no such protocol, or a file that is none.
    """
    if name.endswith((".yaml", ".yml")):
        return read_protocol(Path(name))
    found = PROTOCOLS.find(name)
    if found is None:
        raise UsageError(
            f"unknown protocol {name!r}",
            nearest=nearest(name, PROTOCOLS.names),
            remedy="`dilkit ls protocols` lists them; a file must end in .yaml",
        )
    return found


def read_protocol(path: Path) -> Protocol:
    """A protocol from a YAML file as `protocol_yaml` writes it."""
    if not path.is_file():
        raise UsageError("no such protocol file", where=path)
    return parse_protocol(path.read_text(encoding="utf-8"), path)


def parse_protocol(text: str, where: object) -> Protocol:
    """The protocol that a text in YAML describes."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UsageError("not a YAML file", where=where, found=str(error).splitlines()[0]) from None
    if not isinstance(raw, Mapping):
        raise UsageError("not a protocol", where=where, found=type(raw).__name__, expected="keys and values")
    return validate_protocol(raw, where)


def protocol_yaml(protocol: Protocol) -> str:
    """A text that `read_protocol` reads back."""
    from io import StringIO

    from ruamel.yaml import YAML

    out = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(json.loads(protocol.model_dump_json(exclude_none=True)), out)
    return out.getvalue()


def find_sets(protocol: Protocol, root: str | Path | None = None) -> list[Any]:
    """The folders of a protocol's sets in `root` (by default $DILKIT_DATA) or its folder `test` or `real`.

    Raises:
        UsageError: none is there. (Those that are missing are not in the list; `missing_sets` names them.)
    """
    root = root or os.environ.get("DILKIT_DATA")
    if root is None:
        raise UsageError(
            f"where are the test sets of {protocol.name}?",
            expected=", ".join(protocol.sets),
            remedy="give --data FOLDER for each, or set DILKIT_DATA to the folder that holds them",
        )
    places = [Path(root) / "test", Path(root) / "real", Path(root)]
    found = [next((p / name for p in places if (p / name).is_dir()), None) for name in protocol.sets]
    there = [source_of(protocol, folder) for folder in found if folder is not None]
    if not there:
        raise UsageError(
            f"none of the sets of {protocol.name} is there", where=root, expected=", ".join(protocol.sets)
        )
    return there


def source_of(protocol: Protocol, folder: str | Path) -> str | Path | PairFolder:
    """A test set's folder as `evaluate` takes it: where the protocol is of real pairs, its two sides."""
    if protocol.pairs is None:
        return folder
    folder = Path(folder)
    clean, distorted = (folder / name for name in protocol.pairs)
    for side in (clean, distorted):
        if not side.is_dir():
            raise UsageError("a side of the pairs is not there", where=side, expected="a folder of images")
    return PairFolder(folder.name, clean, distorted)


def other_sets(protocol: Protocol, data: Data) -> tuple[str, ...] | None:
    """The names of the sets in `data`, where they are not those of the protocol."""
    names = tuple(dict.fromkeys(image.set for image in find_images(data)))
    return None if set(names) == set(protocol.sets) else names


def missing_sets(protocol: Protocol, measured: Iterable[str]) -> list[str]:
    """The sets of a protocol that are not among those measured."""
    there = set(measured)
    return [name for name in protocol.sets if name not in there]


def manifest(rows: pd.DataFrame) -> dict[str, dict[str, str]]:
    """The images of an evaluation: pixel hashes by set and name."""
    pairs = rows[["set", "image", "pixels"]].drop_duplicates().to_numpy().tolist()
    made: dict[str, dict[str, str]] = {}
    for name, image, pixels in pairs:
        made.setdefault(name, {})[image] = pixels
    return {name: dict(sorted(images.items())) for name, images in made.items()}


def check_manifest(
    rows: pd.DataFrame, known: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, str]:
    """By set, how its images compare with the manifest of that name, in words."""
    known = shipped_manifests() if known is None else known
    said = {}
    for name, images in manifest(rows).items():
        if name not in known:
            said[name] = "no manifest"
            continue
        wanted = set(known[name].values())
        same = len(wanted & set(images.values()))
        strange = len(images) - sum(pixels in wanted for pixels in images.values())
        whole = same == len(wanted) and not strange
        said[name] = f"{same} of {len(wanted)} images as in the manifest" + (
            "" if whole else f", {len(wanted) - same} missing, {strange} strange"
        )
    return said


def shipped_manifests() -> dict[str, dict[str, str]]:
    """Pixel hashes of well-known test sets, by set and file name."""
    text = files("dilkit.evaluation").joinpath("manifests.json").read_text(encoding="utf-8")
    held: dict[str, dict[str, str]] = json.loads(text)
    return held


def table(protocols: Iterable[Protocol]) -> list[Sequence[str]]:
    """Lines for a listing: name, version, sets, distortions with presets by name, summary."""
    return [(p.name, f"v{p.version}", " ".join(p.sets), _by_preset(p.distort), p.summary) for p in protocols]


def _by_preset(distort: str | None) -> str:
    """Distortions with presets by name, cut where they are still long."""
    if distort is None:
        return "real pairs"
    for preset in PRESETS.values():
        distort = distort.replace(preset.text, preset.name)
    return distort


_PAPER = "Li et al., CVPR 2023, arXiv 2303.06859"
_COLOUR = ("CBSD68", "Kodak24", "McMaster", "Urban100")
_BLUR = ("Set5", "Set14", "BSD100", "Urban100", "Manga109")
_HENDRYCKS = "Hendrycks and Dietterich, ICLR 2019"
_MASKED = "Chen et al., masked image training, CVPR 2023"


_HYBRID = tuple(PRESETS[f"hybrid-{degree}"].text for degree in ("mild", "moderate", "severe"))
"""Spelt out, so that a preset that changes changes the hash of the protocol."""

_UNSEEN_40 = " | ".join((
    "awgn[25, 50]", "poisson[2, 4]", "speckle[0.04, 0.1]", "correlated_noise[40, 55]",
    "salt_pepper[0.01, 0.05]", "camera_noise[0.002, 0.01]",
    "gaussian_blur[1, 2, 4]", "defocus[2, 4]", "motion_blur[7, 15]",
    "anisotropic_blur(3, across=1, angle=30)",
    "sinc(1)", "glass_blur(1)", "zoom_blur(1.1)",
    "jpeg[50, 30, 10]", "webp[40, 10]",
    "updown[0.5, 0.25]", "pixelate[0.5, 0.25]",
    "brightness(0.2)", "contrast(0.5)", "low_light(2)",
    "haze(0.6)", "fog(1)", "rain(0.004)", "snow(0.2)", "frost(0.4)",
))  # fmt: skip

_PROTOCOLS = (
    Protocol(
        name="denoise-awgn", version=2, sets=(*_COLOUR, "Manga109"), source=f"{_PAPER}, table 1",
        summary="Gaussian noise of seen (5 to 20) and unseen degrees; clipped, not rounded, as its script.",
        trained="awgn[5, 10, 15, 20]", distort="awgn[5, 10, 15, 20, 30, 40, 50]",
    ),
    Protocol(
        name="deblur-gaussian", sets=_BLUR, source=_PAPER,
        summary="Gaussian blur of seen (1 to 4) and unseen degrees.",
        trained="gaussian_blur[1, 2, 3, 4]", distort="gaussian_blur[1, 2, 3, 4, 4.2, 4.4, 4.6, 4.8, 5]",
    ),
    Protocol(
        name="hybrid", version=3, sets=("BSD100", "Urban100", "Manga109", "DIV2K"), channel="y",
        source=f"{_PAPER}, table 3",
        summary="Blur, then noise, then JPEG; trained severe, tested on all. The presets "
        "hybrid_mild to hybrid_severe: ours, from RL-Restore's levels, since the paper prints none.",
        trained=_HYBRID[-1], distort=" | ".join(_HYBRID),
    ),
    Protocol(
        name="real-denoise", sets=("SIDD", "DND"), source=_PAPER, channel="y",
        summary="Real camera noise, paired with clean images (--inputs); trained on synthetic noise.",
    ),
    Protocol(
        name="real-sr", sets=("RealSR", "DRealSR"), source=_PAPER, channel="y", border=4,
        summary="Real low resolution, scale 4, in pairs (--inputs); trained on synthetic degradations.",
    ),
    Protocol(
        name="derain", sets=("Rain100L", "Rain12", "Rain800"), source=_PAPER, channel="y",
        summary="Rain of sets not trained on, in pairs with clean images (--inputs); trained on DID-MDN, "
        "Rain14000 and Heavy Rain.",
    ),
    Protocol(
        name="real-polyu", sets=("PolyU",), source="Xu et al., PolyU real-world noisy images, 2018",
        pairs=("clean", "noisy"),
        summary="100 crops of photographs with the noise of their cameras; clean: the mean of many.",
    ),
    Protocol(
        name="denoise-ood-15", sets=_COLOUR, source=f"{_MASKED}; IDF, ICCV 2025",
        summary="Trained on sigma 15 alone, tested on other noise from 8-bit files. The last mixture is "
        "ours; real-polyu completes it.",
        trained="awgn(15)", quantize=True,
        distort="awgn[15, 25, 50] | poisson(3.5) | speckle(0.04) | salt_pepper(0.02) | correlated_noise(55)"
        " | awgn(15) >> poisson(2) >> salt_pepper(0.002)",
    ),
    Protocol(
        name="unseen-40", sets=_COLOUR, source="dilkit",
        summary="Forty distortions, mild to strong, of every family that keeps the geometry.",
        distort=_UNSEEN_40, quantize=True,
    ),
    Protocol(
        name="denoise-classic", sets=_COLOUR, source="DnCNN, FFDNet, DRUNet and Restormer papers",
        summary="Gaussian noise, unclipped, NumPy's legacy generator seeded with 0 before each image.",
        distort="awgn[15, 25, 50]", clip=False, noise="legacy-numpy",
    ),
    Protocol(
        name="denoise-unclipped", sets=_COLOUR, source="Mohan et al., ICLR 2020",
        summary="Gaussian noise without clipping, which keeps the scale equivariance of bias-free nets.",
        distort="awgn[5, 10, 15, 20, 30, 40, 50, 75, 100]", clip=False,
    ),
    Protocol(
        name="denoise-types", sets=_COLOUR, source=_MASKED,
        summary="Noise of other types than Gaussian; the salt_pepper and jpeg levels are ours.",
        trained="awgn(15)",
        distort='poisson[2, 2.5, 3, 3.5] | speckle(0.024, law="uniform") | correlated_noise[40, 45, 50, 55]'
        " | salt_pepper[0.002, 0.004, 0.008, 0.012] | jpeg[30, 50, 70]",
    ),
    Protocol(
        name="jpeg", sets=("LIVE1", "Set5", "CBSD68"), source="ARCNN, FBCNN and SwinIR papers",
        summary="JPEG artefacts by exact quality, in colour.", distort="jpeg[10, 20, 30, 40]",
    ),
    Protocol(
        name="corruptions-noise", sets=_COLOUR, source=f"{_HENDRYCKS}, severities 1 to 5",
        summary="Common corruptions: noise.",
        distort="awgn[20.4, 30.6, 45.9, 66.3, 96.9] | speckle[0.0225, 0.04, 0.1225, 0.2025, 0.36]"
        " | salt_pepper[0.03, 0.06, 0.09, 0.17, 0.27]",
        quantize=True,
    ),
    Protocol(
        name="corruptions-blur", sets=_COLOUR, source=f"{_HENDRYCKS}, severities 1 to 5",
        summary="Common corruptions: blur and digital.",
        distort="defocus[3, 4, 6, 8, 10] | gaussian_blur[1, 2, 3, 4, 6] | jpeg[25, 18, 15, 10, 7]",
        quantize=True,
    ),
    Protocol(
        name="bsrgan", version=2, sets=("DIV2K", "BSD100"), source="Zhang et al., BSRGAN, ICCV 2021",
        channel="y", border=4,
        summary="Blind super-resolution, scale 4: the preset bsrgan. Sets, channel and border are ours.",
        distort=PRESETS["bsrgan"].text,
    ),
    Protocol(
        name="real-esrgan", version=2, sets=("DIV2K", "BSD100"),
        source="Wang et al., Real-ESRGAN, ICCVW 2021",
        channel="y", border=4,
        summary="Blind super-resolution, scale 4, first and second order: the presets real-esrgan-1 and -2. "
        "Sets, channel and border are ours.",
        trained=PRESETS["real-esrgan-1"].text,
        distort=" | ".join(PRESETS[f"real-esrgan-{order}"].text for order in (1, 2)),
    ),
)  # fmt: skip


def _accept(name: str, protocol: Protocol) -> None:
    if not isinstance(protocol, Protocol) or protocol.name != name:
        raise UsageError(
            "not a protocol", where=name, found=type(protocol).__name__, expected="a Protocol of that name"
        )


PROTOCOLS: Registry[Protocol] = Registry("protocol", check=_accept, is_one=lambda x: isinstance(x, Protocol))
for _protocol in _PROTOCOLS:
    PROTOCOLS.add(_protocol)


def check_protocol(protocol: Protocol) -> None:
    """The conformance check of a protocol: what its registry asks, and that it can be written, read and run.

    Raises:
        UsageError: an expression that does not parse, noise that the protocol does not define, no summary,
            source or sets, or a text that is not read back as the same protocol.
    """
    _accept(protocol.name, protocol)
    for key in ("summary", "source", "sets"):
        if not getattr(protocol, key):
            raise UsageError(f"the protocol has no {key}", where=protocol.name)
    if protocol.distort is not None:
        words = confounder_set(protocol.distort)
        degrade = Degradation(protocol.seed, protocol.clip, protocol.quantize, protocol.noise)
        degrade.check(dict(zip(words.labels, words, strict=True)))
    if protocol.trained is not None:
        confounder_set(protocol.trained)
    if parse_protocol(protocol_yaml(protocol), protocol.name) != protocol:
        raise UsageError("the protocol is not read back as it was written", where=protocol.name)
