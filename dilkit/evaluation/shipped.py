"""The protocols that come with dilkit: the paper's six tasks, and tests from outside it.

A test parses every expression, so a protocol cannot outlive the distortions it names. Where a source does not
print a number, the summary says that the number is ours.
"""

from __future__ import annotations

from dilkit.distortions.presets import PRESETS
from dilkit.evaluation.protocols import Protocol

_PAPER = "Li et al., CVPR 2023, arXiv 2303.06859"
_COLOUR = ("CBSD68", "Kodak24", "McMaster", "Urban100")
_BLUR = ("Set5", "Set14", "BSD100", "Urban100", "Manga109")
_HENDRYCKS = "Hendrycks and Dietterich, ICLR 2019"
_MASKED = "Chen et al., masked image training, CVPR 2023"


_HYBRID = tuple(PRESETS[f"hybrid-{degree}"].text for degree in ("mild", "moderate", "severe"))
"""Spelt out, so that a preset that changes changes the hash of the protocol."""

_PROTOCOLS = (
    Protocol(
        name="denoise-awgn", sets=_COLOUR, source=f"{_PAPER}, tables 2 and 3",
        summary="Gaussian noise of seen (5 to 20) and unseen degrees; clipped, not rounded, as its script.",
        trained="awgn[5, 10, 15, 20]", distort="awgn[5, 10, 15, 20, 30, 40, 50]",
    ),
    Protocol(
        name="deblur-gaussian", sets=_BLUR, source=_PAPER,
        summary="Gaussian blur of seen (1 to 4) and unseen degrees.",
        trained="gaussian_blur[1, 2, 3, 4]", distort="gaussian_blur[1, 2, 3, 4, 4.2, 4.4, 4.6, 4.8, 5]",
    ),
    Protocol(
        name="hybrid", version=2, sets=("BSD100", "Set5", "Urban100"), source=_PAPER, channel="y",
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
        summary="Rain of data sets not trained on, in pairs with clean images (--inputs).",
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

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _PROTOCOLS}
