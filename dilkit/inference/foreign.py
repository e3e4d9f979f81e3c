"""Nets that dilkit did not train: spandrel's architectures, ONNX files, classes of any package, functions.

A net is named `spandrel:FILE`, `onnx:FILE` or `module:package.module:Class(weights=FILE, width=64)`. After an
`@` stand the adaptations it needs: `spandrel:drunet.pth@sigma=estimate`, `onnx:n.onnx@range=255,order=bgr`.
Weights are read as tensors only, and a class is imported only where the user trusts it.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError, nearest
from dilkit.registry import import_named

SCHEMES = ("spandrel", "onnx", "module")
Level = float | Literal["estimate", "true"]
Order = Literal["rgb", "bgr"]
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net", "generator")
"""Keys under which training programs keep the weights of the net in a file of more."""


@dataclass(frozen=True)
class Adaptation:
    """What stands between dilkit's images, RGB in [0, 1], and a net that expects other input.

    Attributes:
        sigma: the noise level to tell the net, on the 0..255 scale; `estimate` for each image, or `true`:
            that of the test's `awgn`, which only a non-blind reference may know. None: it takes no level.
        range: the value of white that the net expects and returns.
        order: of the colour channels.
        multiple: sides are padded by reflection to multiples of it, and cropped after; 0: found by trial.
    """

    sigma: Level | None = None
    range: float = 1.0
    order: Order = "rgb"
    multiple: int = 0

    def __str__(self) -> str:
        said = []
        if self.sigma is not None:
            words = {"estimate": "estimated", "true": "true"}
            level = words[self.sigma] if isinstance(self.sigma, str) else format(self.sigma, "g")
            said.append(f"noise level {level}")
        if self.range != 1:
            said.append(f"values 0..{self.range:g}")
        if self.order == "bgr":
            said.append("channels BGR")
        if self.multiple > 1:
            said.append(f"padded to multiples of {self.multiple}")
        return ", ".join(said)


_EXPECTED = {
    "sigma": "a noise level on the 0..255 scale, estimate, or true",
    "range": "the value of white, such as 255",
    "order": "rgb or bgr",
    "multiple": "a whole number from 1",
}


def parse_adaptation(text: str, where: str) -> Adaptation:
    """`sigma=25,range=255,order=bgr,multiple=8` as an adaptation.

    Raises:
        UsageError: another key, or a value that it does not take.
    """
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in _EXPECTED:
            raise UsageError(
                "unknown adaptation", where=where, found=key, expected=", ".join(_EXPECTED),
                nearest=nearest(key, _EXPECTED),
            )  # fmt: skip
        try:
            values[key] = _read_value(key, value)
        except ValueError:
            raise UsageError(
                f"wrong value for {key}", where=where, found=value, expected=_EXPECTED[key]
            ) from None
    return Adaptation(**values)


def _read_value(key: str, value: str) -> Any:
    if value in {"sigma": ("estimate", "true"), "order": get_args(Order)}.get(key, ()):
        return value
    number = int(value) if key == "multiple" else float(value)
    if key == "order" or not 0 <= number < 1e6 or (key != "sigma" and number == 0):
        raise ValueError(value)
    return number


class Adapted(nn.Module):
    """A net behind its adaptation: (B, 3, H, W) RGB in [0, 1] to the same.

    A noise level is given to the net as its second argument, one number an image, if its `forward` takes two;
    else as a fourth channel, constant over the image.

    Attributes:
        known_sigma: set by who knows it, for `sigma="true"`.
    """

    def __init__(self, net: nn.Module, adaptation: Adaptation = Adaptation()) -> None:
        super().__init__()
        self.net, self.adaptation = net, adaptation
        self.known_sigma: float | None = None
        takes = getattr(net, "takes_level", None)
        self._takes_two = _arguments(net) >= 2 if takes is None else bool(takes)
        multiple = adaptation.multiple or int(getattr(net, "multiple", 0))
        if multiple:
            self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        a = self.adaptation
        given = x.flip(1) if a.order == "bgr" else x
        given = given * a.range if a.range != 1 else given
        if a.sigma is None:
            restored = self.net(given)
        else:
            level = self._levels(x) * (a.range / 255)
            if self._takes_two:
                restored = self.net(given, level)
            else:
                maps = level[:, None, None, None].expand(-1, 1, *x.shape[2:])
                restored = self.net(torch.cat([given, maps], dim=1))
        restored = restored / a.range if a.range != 1 else restored
        return restored.flip(1) if a.order == "bgr" else restored

    def _levels(self, x: Tensor) -> Tensor:
        """(B,) noise levels on the 0..255 scale."""
        sigma = self.adaptation.sigma
        if sigma == "estimate":
            return 255 * estimate_sigma(x)
        known = self.known_sigma if sigma == "true" else sigma
        if known is None:
            raise DilkitError(
                "the net is to be told the true noise level, which is known only where `awgn` is tested",
                remedy="sigma=estimate, or sigma=25 for a level of your choice",
            )
        return x.new_full((len(x),), float(known))


def estimate_sigma(x: Tensor) -> Tensor:
    """The standard deviation of white Gaussian noise in (B, C, H, W), per image and in its unit, (B,): the
    median of the finest diagonal Haar details over 0.6745, the mean over channels (Donoho and Johnstone,
    "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994)."""
    h, w = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
    even, odd = x[..., 0:h:2, :w], x[..., 1:h:2, :w]
    details = (even[..., 0::2] - even[..., 1::2] - odd[..., 0::2] + odd[..., 1::2]) / 2
    return (details.abs().flatten(2).median(dim=2).values / 0.6745).mean(dim=1)


def _arguments(net: nn.Module) -> int:
    """How many positional arguments `forward` needs."""
    try:
        parameters = inspect.signature(net.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)


class Function(nn.Module):
    """A Python function as a net: from an image, NumPy (H, W, 3) RGB float32 in [0, 1], to an image."""

    multiple = 1

    def __init__(self, function: Callable[[npt.NDArray[np.float32]], npt.ArrayLike]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        images = x.float().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        found = [np.asarray(self.function(image), np.float32) for image in images]
        for image in found:
            if image.ndim != 3 or image.shape[2] != 3:
                raise DilkitError(
                    "the function did not return an image", found=f"shape {image.shape}", expected="(H, W, 3)"
                )
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x)


class OnnxNet(nn.Module):
    """An ONNX file, run by onnxruntime on the CPU; the noise level is its second input, if it has two."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError(
                "an ONNX net needs onnxruntime", where=path, found=str(error),
                remedy="pip install onnxruntime (the extra dilkit[onnx])",
            ) from None  # fmt: skip
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise UsageError(
                "not an ONNX net that onnxruntime runs", where=path, found=str(error).partition("\n")[0]
            ) from error
        self.inputs = [(i.name, len(i.shape)) for i in self.session.get_inputs()]
        if not 1 <= len(self.inputs) <= 2:
            raise UsageError(
                "a restorer has one input, or two with the noise level", where=path,
                found=f"{len(self.inputs)} inputs",
            )  # fmt: skip
        self.takes_level = len(self.inputs) == 2

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        fed = {self.inputs[0][0]: x.contiguous().cpu().numpy()}
        if level is not None:
            name, rank = self.inputs[1]
            values = level.reshape(len(x), *(1,) * (rank - 1))
            values = values.expand(-1, 1, *x.shape[2:]) if rank == 4 else values
            fed[name] = values.contiguous().cpu().numpy()
        return torch.from_numpy(np.asarray(self.session.run(None, fed)[0])).to(x)


def is_foreign(text: str) -> bool:
    """Whether a text names a net by one of `SCHEMES`."""
    return text.partition(":")[0] in SCHEMES and ":" in text


def open_foreign(text: str, *, trust_code: bool = False) -> tuple[Adapted, str]:
    """The net that a text names (see the head of this module), and the digest of its file of weights, or "".

    Args:
        trust_code: whether `module:` may import and run what it names.

    Raises:
        UsageError: no such file, a file that holds no net, an architecture that is not known, or code that is
            not trusted: refused before it is imported.
    """
    whole, _, adaptations = text.partition("@")
    scheme, _, rest = whole.partition(":")
    adaptation = parse_adaptation(adaptations, text)
    if scheme == "module":
        net, path = _open_class(rest, trust_code)
    else:
        path = Path(rest).expanduser()
        if not path.is_file():
            raise UsageError("no such file", where=text, found=rest)
        net = OnnxNet(path) if scheme == "onnx" else _open_spandrel(path, adaptation)
    return Adapted(net, adaptation), "" if path is None else _digest(path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, without running anything that the file names.

    Raises:
        UsageError: not such a file, or one without tensors.
    """
    if not path.is_file():
        raise UsageError("no such file of weights", where=path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held: Any = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any reader may raise anything on a damaged or hostile file
        raise UsageError(
            "the file cannot be read as weights alone", where=path,
            found=str(error).partition("\n")[0][:200],
            expected="tensors by name, as torch.save(net.state_dict()) or safetensors write them",
            remedy="save the state dict of the net, not the net itself; dilkit runs no code of such a file",
        ) from error  # fmt: skip
    for key in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise UsageError("the file holds no weights of a net", where=path, found=type(held).__name__)
    names = dict(held)
    if all(name.startswith("module.") for name in names):
        names = {name.removeprefix("module."): tensor for name, tensor in names.items()}
    return names


def _open_class(text: str, trust_code: bool) -> tuple[nn.Module, Path | None]:
    try:
        name, arguments = _parse_call(text)
    except (SyntaxError, ValueError):
        raise UsageError(
            "not a class with its arguments", where=f"module:{text}",
            expected="module:package.module:Class(weights=FILE, width=64); other texts stand in quotes",
        ) from None  # fmt: skip
    if not trust_code:
        raise UsageError(
            f"{name} would be imported and run", where=f"module:{text}",
            remedy="--trust-code (trust_code=True), if you trust that package",
        )  # fmt: skip
    make = import_named(name, f"module:{text}")
    if not (isinstance(make, type) and issubclass(make, nn.Module)):
        raise UsageError(f"{name} is no torch.nn.Module class", where=f"module:{text}", found=repr(make)[:80])
    weights = arguments.pop("weights", None)
    try:
        net = make(**arguments)
    except TypeError as error:
        raise UsageError(
            f"{name}: {error}", where=f"module:{text}", expected=f"{make.__name__}{inspect.signature(make)}"
        ) from error
    if weights is None:
        return net, None
    path = Path(str(weights)).expanduser()
    try:
        net.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise UsageError(
            f"the weights are not those of {name}", where=path, found=" ".join(str(error).split())[:200]
        ) from error
    return net, path


def _parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """(`package.module:Class`, keyword arguments); the path of `weights` needs no quotes."""
    name, bracket, rest = text.partition("(")
    module, _, attribute = name.partition(":")
    if not module or not attribute.isidentifier():
        raise ValueError(text)
    quoted = re.sub(
        r"""([(,]\s*weights\s*=\s*)([^\s'"(),][^'"(),]*)""",
        lambda found: f"{found[1]}{found[2].strip()!r}",
        bracket + rest or "()",
    )
    call = ast.parse(f"call{quoted}", mode="eval").body
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
        raise ValueError(text)
    return name, {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}


def _open_spandrel(path: Path, adaptation: Adaptation) -> nn.Module:
    try:
        with importable_torchvision():
            from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
    except ImportError as error:
        raise UsageError(
            "this net needs spandrel", where=path, found=str(error),
            remedy="pip install spandrel (the extra dilkit[spandrel])",
        ) from None  # fmt: skip
    try:
        found = ModelLoader().load_from_state_dict(read_weights(path))
    except UnsupportedModelError:
        raise UsageError(
            "spandrel knows no architecture with these weights", where=path,
            remedy="module:package.module:Class(weights=FILE) takes the class of your own",
        ) from None  # fmt: skip
    if not isinstance(found, ImageModelDescriptor) or (found.input_channels, found.output_channels) != (3, 3):
        raise UsageError(
            "not a net from RGB to RGB", where=path,
            found=f"{found.architecture.name}: {found.input_channels} to {found.output_channels} channels",
        )  # fmt: skip
    if adaptation.sigma is not None:
        net: nn.Module = found.model
        net.multiple = found.size_requirements.multiple_of
        return net
    return _Described(found)


class _Described(nn.Module):
    """A spandrel descriptor, which pads and clamps by itself."""

    multiple = 1

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.net, self._descriptor = descriptor.model, (descriptor,)

    def forward(self, x: Tensor) -> Tensor:
        restored: Tensor = self._descriptor[0](x)
        return restored


@contextmanager
def importable_torchvision() -> Iterator[None]:
    """Two of spandrel's architectures name torchvision's image functions when they are imported. Where
    torchvision is not there, empty modules take its place for the moment of the import."""
    try:
        absent = find_spec("torchvision") is None
    except ValueError:
        absent = False
    if not absent:
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    made = {name: types.ModuleType(name) for name in names}
    for name in ("InterpolationMode", "rotate", "normalize"):
        setattr(made[names[-1]], name, None)
    made[names[0]].transforms = made[names[1]]  # type: ignore[attr-defined]
    made[names[1]].functional = made[names[2]]  # type: ignore[attr-defined]
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
