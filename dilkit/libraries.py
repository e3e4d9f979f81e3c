"""The libraries that make pixels, each imported when it is first used.

Parsing and comparing distortions and listing what there is need none of them, so `dilkit ls` and shell
completion start fast.
"""

from __future__ import annotations

import importlib
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

    class Deferred(ModuleType):
        """A module that is imported when one of its attributes is first asked for."""

        def __getattr__(self, name: str) -> Any:
            module = importlib.import_module(self.__name__)
            if self.__name__ == "cv2" and not vars(self).get("_single"):
                # processes are what we scale by, and OpenCV's own threads do not survive a fork
                module.setNumThreads(0)
                self._single = True
            value = getattr(module, name)
            setattr(self, name, value)
            return value

    cv2, np, npt, simplejpeg, pillow, special = map(
        Deferred, ("cv2", "numpy", "numpy.typing", "simplejpeg", "PIL.Image", "scipy.special")
    )

Array: TypeAlias = "npt.NDArray[np.float32]"
"""float32 of any shape."""

__all__ = ["Array", "cv2", "np", "npt", "pillow", "simplejpeg", "special"]
