"""A net is trained on real pairs, alone or beside synthetic distortions, as a recipe names them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dilkit.checkpoint import load
from dilkit.training import train

NET = ["demo", "data.crop=16", "data.batch=1", "model.depth=3", "model.width=4", "steps=2"]


def test_pairs_are_confounders_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("clean", "noisy"):
        (tmp_path / name).mkdir()
    for k in range(3):
        clean = cv2.resize(random.integers(40, 216, (6, 6, 3)).astype(np.uint8), (48, 48))
        noisy = np.clip(clean + random.normal(0, 9, clean.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"clean/{k}.png"), clean)
        cv2.imwrite(str(tmp_path / f"noisy/{k}.png"), noisy)
    pairs = f"data.pairs=[real={tmp_path / 'clean'}:{tmp_path / 'noisy'}]"
    train([*NET, pairs], tmp_path / "alone")
    seen = load(tmp_path / "alone/checkpoints/last.safetensors").provenance
    assert seen.labels == ("real",)
    assert seen.holds(cv2.imread(str(tmp_path / "clean/0.png"))[..., ::-1].copy())
    both = [*NET, pairs, f"data.sources=[{tmp_path / 'clean'}]", "data.distort=awgn(5)"]
    train([*both, "data.pairing=independent"], tmp_path / "both")
    assert set(load(tmp_path / "both/checkpoints/last.safetensors").provenance.labels) == {"real", "awgn(5)"}
