"""The bits of what is made of elementary operations alone, on every machine and for ever.

A change here is a change of the data sets that people have: raise the primitive's `version` with it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

GOLDEN = {
    "awgn(25)": "b421f31c7d438393",
    "awgn(25, channels='grey')": "9d105bdf8c8293ca",
    "awgn(25, channels='correlated')": "be7b48458d6ae74a",
    "poisson(1)": "0f4741b29cdfc763",
    "poisson(2, peak=9)": "ebd1633e54c39f3e",
    "poisson(1, channels='grey')": "2c874acf095a108f",
    "poisson(1, legacy=True)": "5368cf9c7558a4af",
    "speckle(0.024)": "f4e6cd2db79c53cf",
    "speckle(0.024, law='uniform')": "9e70586bafb98dfc",
    "salt_pepper(0.1)": "94088072ce592546",
    "haze(0.6)": "8d6ed0c2609ae6db",
    "fog(2)": "b5abce72e0ce8455",
    "frost(0.7)": "6612ecce8074da45",
    "frost(0.4, keep=1.0)": "395762aa913eae29",
    "snow(0.3, length=1)": "1c6a7b3fdbc86b95",
    "elastic(0, jitter=9)": "31a5e859555917a3",
    "brightness(0.2)": "64f46b3cc47b73ca",
    "quantize(bits=5)": "73d9b7a602a6a796",
    "awgn(25) >> clip >> quantize": "70f927ff93d22132",
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_bits(case):
    from dilkit.distortions import SampleKey, parse

    y, x, c = np.meshgrid(np.arange(40), np.arange(30), np.arange(3), indexing="ij")
    image = ((y * 7 + x * 11 + c * 50) % 256).astype(np.float32) / np.float32(255)
    made = parse(case).apply(image, SampleKey(0, b"golden"))
    assert hashlib.blake2b(made.tobytes(), digest_size=8).hexdigest() == GOLDEN[case]
