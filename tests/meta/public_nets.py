"""Public nets under the adjoint, in double precision: `make test-zoo`. Not part of `make test`.

Each is exact against the unrolled graph, or refused with the reason; where its library does not import it is
skipped. `python tests/meta/public_nets.py` prints the table of docs/meta.md.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dilkit
from dilkit.errors import DilkitError

IMAGE, VOLUME = (2, 3, 64, 64), (1, 1, 32, 32, 32)
Net = tuple[str, str, dict[str, Any], tuple[int, ...]]


def _nets() -> dict[str, Net]:
    """Name -> module, attribute (or factory), arguments, shape of the input."""
    out: dict[str, Net] = {}
    for name in (
        "resnet18", "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224",
        "deit_tiny_patch16_224", "mixer_s32_224", "regnetx_002", "densenet121", "poolformer_s12",
        "swin_tiny_patch4_window7_224", "ghostnet_050", "res2net50_14w_8s", "cait_xxs24_224", "gmixer_12_224",
        "xcit_nano_12_p16_224",
        "mobilevit_xxs", "levit_128s", "repvgg_a0", "edgenext_xx_small",
    ):  # fmt: skip
        sized = any(x in name for x in ("_224", "levit"))
        out[f"timm {name}"] = (
            "timm", "create_model", {"model_name": name, "num_classes": 5}, (2, 3, 224, 224) if sized else IMAGE  # noqa: E501
        )  # fmt: skip
    for arch in (
        "Unet",
        "UnetPlusPlus",
        "FPN",
        "Linknet",
        "PSPNet",
        "PAN",
        "MAnet",
        "DeepLabV3",
        "DeepLabV3Plus",
    ):
        out[f"smp {arch}"] = (
            "segmentation_models_pytorch",
            arch,
            {"encoder_name": "tu-resnet18", "encoder_weights": None},
            IMAGE,
        )
    flat = {"spatial_dims": 2, "in_channels": 3, "out_channels": 3}
    deep = {"channels": (4, 8, 16), "strides": (2, 2)}
    for arch, settings in (
        ("UNet", flat | deep | {"num_res_units": 1}),
        ("AttentionUnet", flat | deep),
        ("BasicUNet", flat | {"features": (4, 4, 8, 8, 8, 4)}),
        ("SegResNet", flat | {"init_filters": 8}),
        (
            "SegResNetVAE",
            {"in_channels": 3, "out_channels": 3, "input_image_size": (64, 64), "spatial_dims": 2},
        ),
        (
            "UNETR",
            flat | {"img_size": 64, "feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2},
        ),
        ("SwinUNETR", flat | {"feature_size": 12}),
        ("DynUNet", flat | {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}),
        ("AutoEncoder", flat | {"channels": (4, 8), "strides": (2, 2)}),
        ("DenseNet121", flat),
        ("SEResNet50", {"spatial_dims": 2, "in_channels": 3, "num_classes": 5}),
        (
            "EfficientNetBN",
            {"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 3, "pretrained": False},
        ),
        (
            "FlexibleUNet",
            {"in_channels": 3, "out_channels": 3, "backbone": "efficientnet-b0", "pretrained": False},
        ),
        ("HighResNet", flat),
    ):
        out[f"monai {arch}"] = ("monai.networks.nets", arch, settings, IMAGE)
    for name, settings in (
        ("rotary", {"rotary_pos_emb": True}), ("flash", {"attn_flash": True}), ("gated", {"ff_glu": True}),
        ("rms norm", {"use_rmsnorm": True}), ("talking heads", {"attn_pre_talking_heads": True}),
    ):  # fmt: skip
        out[f"x-transformers {name}"] = ("meta_zoo_transformers", "encoder", settings, (2, 16, 24))
    for arch, settings in (
        ("DnCNN", {"pretrained": None, "depth": 5, "nf": 16}),
        ("UNet", {"in_channels": 3, "out_channels": 3, "scales": 3}),
        ("SwinIR", {"pretrained": None, "img_size": 64, "depths": [2], "embed_dim": 12, "num_heads": [2]}),
        ("Restormer", {"pretrained": None, "dim": 8, "num_blocks": [1] * 4, "num_refinement_blocks": 1}),
        ("SCUNet", {"pretrained": None, "config": [1] * 7, "dim": 16}),
    ):
        out[f"deepinv {arch}"] = ("deepinv.models", arch, settings, IMAGE)
    for module, arch, settings in (
        ("Compact.__arch.SRVGG", "SRVGGNetCompact", {"num_feat": 8, "num_conv": 2}),
        ("SwinIR.__arch.SwinIR", "SwinIR", {"depths": [2], "embed_dim": 12, "num_heads": [2]}),
        ("NAFNet.__arch.NAFNet_arch", "NAFNet", {"width": 4, "middle_blk_num": 1}),
        ("OmniSR.__arch.OmniSR", "OmniSR", {"num_feat": 8, "res_num": 1}),
        ("MIRNet2.__arch.MIRNet_v2_arch", "MIRNet_v2", {"n_feat": 8, "n_RRG": 1, "n_MRB": 1}),
    ):
        out[f"spandrel {arch}"] = (f"spandrel.architectures.{module}", arch, settings, IMAGE)
    return out


NETS = _nets()


def encoder(**settings: Any) -> nn.Module:
    from x_transformers import ContinuousTransformerWrapper, Encoder

    layers = Encoder(dim=24, depth=2, heads=2, **settings)
    return ContinuousTransformerWrapper(dim_in=24, dim_out=24, max_seq_len=16, attn_layers=layers)


def loss(module: nn.Module, batch: Tensor) -> Tensor:
    out = module(batch)
    while isinstance(out, tuple | list):
        out = out[0]
    return (out.square() + 1e-3).sqrt().mean()


def examine(name: str) -> tuple[float, str]:
    """How far the adjoint is off the unrolled graph, relatively, or why it was refused."""
    module, attribute, settings, shape = NETS[name]
    torch.manual_seed(0)
    made = (
        encoder(**settings)
        if attribute == "encoder"
        else getattr(importlib.import_module(module), attribute)(**settings)
    )
    net = made.double().eval()
    data = [torch.rand(shape, dtype=torch.float64) for _ in range(2)]
    got = {}
    for backend in ("native", "unrolled"):
        torch.manual_seed(1)
        try:
            got[backend] = dilkit.meta.of(net).grad(
                loss, data[:1], inner=1e-3, outer_batches=data[1:], backend=backend
            )
        except DilkitError as error:
            return 0.0, f"refused ({backend}): {error.message}"
    pairs = [(got["native"].grads[n], g) for n, g in got["unrolled"].grads.items()]
    off = (
        torch.stack([(a - b).norm() for a, b in pairs]).norm()
        / torch.stack([b.norm() for _, b in pairs]).norm()
    )
    return float(off), ""


@pytest.mark.parametrize("name", NETS)
def test_a_public_net_is_exact_or_refused(name: str) -> None:
    warnings.simplefilter("ignore")
    try:
        importlib.import_module("x_transformers" if NETS[name][1] == "encoder" else NETS[name][0])
    except Exception as error:  # noqa: BLE001 - a library that does not import here, for whatever reason
        pytest.skip(f"{type(error).__name__}: {str(error)[:80]}")
    off, refused = examine(name)
    assert refused or off <= 1e-9


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in NETS:
        try:
            off, refused = examine(each)
            print(f"| {each} | {refused or f'exact ({off:.0e})'} |", flush=True)  # noqa: T201
        except Exception as error:  # noqa: BLE001
            print(f"| {each} | not here: {str(error).splitlines()[0][:60]} |", file=sys.stderr, flush=True)  # noqa: T201
