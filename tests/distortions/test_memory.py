import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from dilkit.distortions import SampleKey, parse
from dilkit.distortions.render import keep_freed_memory

kept = keep_freed_memory()
word, image = parse("motion_blur(15, angle=30)"), np.zeros((256, 256, 3), np.float32)
for _ in range(3):
    word.apply(image, SampleKey(0, b""))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    word.apply(image, SampleKey(0, b""))
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_worker_that_keeps_its_memory_asks_for_no_fresh_pages():
    made = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, faults = (int(number) for number in made.stdout.split())
    if not kept:
        pytest.skip("no glibc here")
    assert faults < 500
