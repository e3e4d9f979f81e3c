"""Public nets under the adjoint, in double precision: `make test-zoo`. Not part of `make test`.

    python tests/meta/public_nets.py [WORD ...]

prints the table of docs/meta.md, or the rows that hold one of the words: exact against the unrolled graph,
refused with the reason, or absent where its library does not load. It exits with 1 where a net is neither.
"""

# ruff: noqa: T201 - it is a program, not a module of the tests
from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import dilkit
from dilkit.errors import DilkitError

IMAGE = (1, 3, 64, 64)
Net = tuple[str, str, dict[str, Any], tuple[int, ...]]
"""Module, class or factory in it, its arguments, shape of the input."""

TIMM = [
    "resnet18", "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "regnetx_002", "densenet121",
    "poolformer_s12", "ghostnet_050", "res2net50_14w_8s", "mobilevit_xxs", "repvgg_a0", "edgenext_xx_small",
    "mobileone_s0", "fastvit_t8", "tf_efficientnetv2_b0", "mnasnet_050", "hardcorenas_a", "resnest14d",
    "eca_resnet33ts", "pvt_v2_b0",
]  # fmt: skip
TIMM_SIZED = [
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224", "swin_tiny_patch4_window7_224",
    "cait_xxs24_224", "gmixer_12_224", "xcit_nano_12_p16_224", "resmlp_12_224", "convit_tiny",
    "coat_lite_tiny",
]  # fmt: skip
SMP = ["Unet", "UnetPlusPlus", "FPN", "Linknet", "PSPNet", "PAN", "MAnet", "DeepLabV3", "DeepLabV3Plus",
       "UPerNet"]  # fmt: skip
FLAT = {"spatial_dims": 2, "in_channels": 3, "out_channels": 3}
DEEP = {"channels": (4, 8, 16), "strides": (2, 2)}
MONAI: dict[str, dict[str, Any]] = {
    "UNet": FLAT | DEEP | {"num_res_units": 1},
    "AttentionUnet": FLAT | DEEP,
    "BasicUNet": FLAT | {"features": (4, 4, 8, 8, 8, 4)},
    "BasicUNetPlusPlus": FLAT | {"features": (4, 4, 8, 8, 8, 4)},
    "SegResNet": FLAT | {"init_filters": 8},
    "SegResNetVAE": {"in_channels": 3, "out_channels": 3, "input_image_size": (64, 64), "spatial_dims": 2},
    "UNETR": FLAT | {"img_size": 64, "feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2},
    "SwinUNETR": FLAT | {"feature_size": 12},
    "DynUNet": FLAT | {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]},
    "AutoEncoder": FLAT | {"channels": (4, 8), "strides": (2, 2)},
    "VarAutoEncoder": {"spatial_dims": 2, "in_shape": (3, 64, 64), "out_channels": 3, "latent_size": 4, "channels": (4, 8), "strides": (2, 2)},  # noqa: E501
    "DenseNet121": FLAT,
    "SEResNet50": {"spatial_dims": 2, "in_channels": 3, "num_classes": 5},
    "EfficientNetBN": {"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 3, "pretrained": False},  # noqa: E501
    "FlexibleUNet": {"in_channels": 3, "out_channels": 3, "backbone": "efficientnet-b0", "pretrained": False},
    "HighResNet": FLAT,
    "ViT": {"in_channels": 3, "img_size": (64, 64), "patch_size": (16, 16), "spatial_dims": 2,
            "hidden_size": 24, "mlp_dim": 48, "num_layers": 2, "num_heads": 2},
}  # fmt: skip
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "rotary": {"rotary_pos_emb": True},
    "flash": {"attn_flash": True},
    "gated": {"ff_glu": True},
    "rms norm": {"use_rmsnorm": True},
    "talking heads": {"attn_pre_talking_heads": True},
    "alibi": {"alibi_pos_bias": True},
    "sandwich norm": {"sandwich_norm": True},
}
DEEPINV: dict[str, dict[str, Any]] = {
    "DnCNN": {"pretrained": None, "depth": 5, "nf": 16},
    "UNet": {"in_channels": 3, "out_channels": 3, "scales": 3},
    "SwinIR": {"pretrained": None, "img_size": 64, "depths": [2], "embed_dim": 12, "num_heads": [2]},
    "Restormer": {"pretrained": None, "dim": 8, "num_blocks": [1] * 4, "num_refinement_blocks": 1},
    "SCUNet": {"pretrained": None, "config": [1] * 7, "dim": 64},
}
SPANDREL: dict[str, tuple[str, dict[str, Any]]] = {
    "SRVGGNetCompact": ("Compact.__arch.SRVGG", {"num_feat": 8, "num_conv": 2}),
    "SwinIR": ("SwinIR.__arch.SwinIR", {"depths": [2], "embed_dim": 12, "num_heads": [2], "window_size": 8}),
    "NAFNet": ("NAFNet.__arch.NAFNet_arch", {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}),  # noqa: E501
    "OmniSR": ("OmniSR.__arch.OmniSR", {"num_feat": 8, "res_num": 1}),
    "RRDBNet": ("ESRGAN.__arch.RRDB", {"num_filters": 8, "num_blocks": 1, "plus": False}),
    "DnCNN": ("DnCNN.__arch.network_dncnn", {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 4}),
    "DRUNet": ("DRUNet.__arch.network_unet", {"in_nc": 3, "out_nc": 3, "nc": [4, 8, 8, 8], "nb": 1}),
    "SAFMN": ("SAFMN.__arch.safmn", {"dim": 8, "n_blocks": 2}),
    "RCAN": ("RCAN.__arch.rcan_arch", {"n_resgroups": 1, "n_resblocks": 2, "n_feats": 16}),
    "DITN_Real": ("DITN.__arch.DITN_Real", {"dim": 12, "ITL_blocks": 1, "SAL_blocks": 1}),
    "SeemoRe": ("SeemoRe.__arch.seemore_arch", {"num_experts": 2, "num_layers": 1, "embedding_dim": 16}),
    "PLKSR": ("PLKSR.__arch.PLKSR", {"dim": 8, "n_blocks": 1}),
    "SPAN": ("SPAN.__arch.span", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8}),
}  # fmt: skip


def nets() -> Iterator[tuple[str, Net]]:
    for name in (*TIMM, *TIMM_SIZED):
        sized: dict[str, Any] = {"img_size": 64} if name in TIMM_SIZED else {}
        if "swin" in name:
            sized["window_size"] = 2
        yield f"timm {name}", ("timm", "create_model", {"model_name": name, "num_classes": 5} | sized, IMAGE)
    for name in SMP:
        settings = {"encoder_name": "tu-resnet18", "encoder_weights": None}
        yield (
            f"smp {name}",
            ("segmentation_models_pytorch", name, settings, (1, 3, 128, 128) if name == "PAN" else IMAGE),
        )
    for name, settings in MONAI.items():
        yield f"monai {name}", ("monai.networks.nets", name, settings, IMAGE)
    for name, settings in TRANSFORMERS.items():
        yield f"x-transformers {name}", ("x_transformers", "encoder", settings, (2, 16, 24))
    for name, settings in DEEPINV.items():
        yield f"deepinv {name}", ("deepinv.models", name, settings, IMAGE)
    for name, (module, settings) in SPANDREL.items():
        yield f"spandrel {name}", (f"spandrel.architectures.{module}", name, settings, (1, 3, 32, 32))


NETS = dict(nets())


def encoder(**settings: Any) -> nn.Module:
    from x_transformers import ContinuousTransformerWrapper, Encoder

    layers = Encoder(dim=24, depth=2, heads=2, **settings)
    return ContinuousTransformerWrapper(dim_in=24, dim_out=24, max_seq_len=16, attn_layers=layers)


def declare_detection_operators() -> None:
    """torchvision's wheels are built against CUDA: beside a CPU build of torch its operators do not load, and
    importing it fails while it describes two of them. No net here calls them, so naming them is enough.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)


KEPT: list[Any] = []
"""Libraries of operators, which vanish when they are dropped."""


def loss(module: nn.Module, batch: Tensor) -> Tensor:
    out = module(batch)
    while isinstance(out, tuple | list):
        out = out[0]
    return ((out - 1).square() + 1e-3).sqrt().mean()  # off 0, where heads that start at 0 have no gradient


def make(name: str) -> nn.Module:
    """Raises:
    ImportError: or whatever its library raises when it does not fit what else is installed.
    """
    module, attribute, settings, _ = NETS[name]
    torch.manual_seed(0)
    library = importlib.import_module(module)
    made = encoder(**settings) if attribute == "encoder" else getattr(library, attribute)(**settings)
    return made.double().eval()


def examine(net: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """How far the adjoint of two steps is off the unrolled graph, relatively, and how far FOMAML's direction
    is: what curvature contributes, without which there would be nothing to get wrong.

    Raises:
        DilkitError: the net is refused.
    """
    data = [torch.rand(shape, dtype=torch.float64) for _ in range(3)]

    def grads(**settings: Any) -> list[Tensor]:
        torch.manual_seed(1)
        got = dilkit.meta.of(net).grad(loss, data[:2], inner=1e-2, outer_batches=data[2:], **settings)
        return list(got.grads.values())

    def apart(a: list[Tensor], b: list[Tensor]) -> float:
        off = torch.stack([(x - y).norm() for x, y in zip(a, b, strict=True)]).norm()
        return float(off / torch.stack([y.norm() for y in b]).norm())

    ours = grads()
    unrolled = grads(backend="unrolled")
    return apart(ours, unrolled), apart(grads(order="fomaml"), unrolled)


def row(name: str) -> tuple[str, bool]:
    """What there is to say of a net, and whether its gradient is wrong."""
    try:
        net = make(name)
    except Exception as error:  # noqa: BLE001 - a library that does not fit here, for whatever reason
        return f"| absent: {type(error).__name__}: {str(error).splitlines()[0][:90]} |", False
    size = f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f} M"
    try:
        off, curved = examine(net, NETS[name][3])
    except DilkitError as error:
        found = f" ({error.found})" if isinstance(error.found, str) else ""
        return f"{size} | refused: {error.message}{found} |", False
    except Exception as error:  # noqa: BLE001 - a net that does not take such inputs
        return f"{size} | does not run: {type(error).__name__}: {str(error).splitlines()[0][:90]} |", False
    exact = off <= 1e-9
    return f"{size} | {'exact' if exact else 'WRONG'} ({off:.0e}; curvature {curved:.0e}) |", not exact


def main(words: list[str]) -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    declare_detection_operators()
    wrong = False
    print("| net | parameters | adjoint, relative to the unrolled graph |\n|---|---|---|")
    for name in NETS:
        if not words or any(word in name for word in words):
            start = time.process_time()
            text, bad = row(name)
            wrong |= bad
            print(f"| {name} | {text}", flush=True)
            print(f"{name}: {time.process_time() - start:.1f} s", file=sys.stderr, flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
