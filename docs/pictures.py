"""Draw the pictures of the README anew: what `make pictures` does after `make demo`.

    python docs/pictures.py runs/demo

The demo's own figures are copied. The photograph comes with matplotlib (Grace Hopper, by James S. Davis,
US Navy, public domain); the noise of a camera is added, and the net that ships takes it away.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
from PIL import Image

import dilkit
from dilkit.inference.restore import write_preview

IMAGES = Path(__file__).resolve().parent / "images"
NOISE = "camera_noise(0.005) >> clip"


def main(demo: Path) -> None:
    """Write docs/images/demo-psnr.png, demo-crops.jpg and restored.jpg, in less space than the originals."""
    Image.open(demo / "psnr.png").convert("RGB").quantize(64).save(IMAGES / "demo-psnr.png", optimize=True)
    Image.open(demo / "crops.png").convert("RGB").save(IMAGES / "demo-crops.jpg", quality=75, optimize=True)
    photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    clean = np.asarray(Image.open(photograph).convert("RGB"))
    [noisy] = dilkit.distort_image(clean, NOISE).values()
    with TemporaryDirectory() as folder:
        given = Path(folder) / "noisy.png"
        Image.fromarray(np.rint(noisy * 255).astype(np.uint8)).save(given)
        dilkit.restore("zoo:denoise", [str(given)], Path(folder) / "restored")
        sheet = write_preview(Path(folder) / "sheet.png", given, Path(folder) / "restored" / "noisy.png", 320)
        Image.open(sheet).convert("RGB").save(IMAGES / "restored.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
