"""The libraries that make pixels, each imported when it is first used.

Parsing and comparing distortions and listing what there is need none of them, so `dilkit ls` and shell
completion start fast.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import cv2
    import numpy as np
    import numpy.typing as npt
    import simplejpeg
    from PIL import Image as pillow
    from scipy import special
else:

    @cache
    def _imported(name: str) -> ModuleType:
        module = importlib.import_module(name)
        if name == "cv2":  # processes are what we scale by, and OpenCV's own threads do not survive a fork
            module.setNumThreads(0)
        return module

    class Deferred(ModuleType):
        """A module that is imported when one of its attributes is first asked for."""

        def __getattr__(self, name: str) -> Any:
            value = getattr(_imported(self.__name__), name)
            setattr(self, name, value)
            return value

    cv2, np, npt, simplejpeg, pillow, special = map(
        Deferred, ("cv2", "numpy", "numpy.typing", "simplejpeg", "PIL.Image", "scipy.special")
    )

Array: TypeAlias = "npt.NDArray[np.float32]"
"""float32 of any shape."""

__all__ = ["Array", "cv2", "np", "npt", "pillow", "simplejpeg", "special"]
