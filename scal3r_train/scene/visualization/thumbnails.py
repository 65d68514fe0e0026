"""Small versions of a scene's input images, where these can still be read.

Shapes: H W pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from scal3r_train.config import UserError
from scal3r_train.data.io.frame_io import read_frame_image
from scal3r_train.scene.scene import Scene

REDUCTIONS = (8, 4, 2)


class Thumbnails:
    """Images below the folder that the scene was made from, read when asked for."""

    def __init__(self, scene: Scene) -> None:
        """Nothing is read yet."""
        self._frames = scene.frames
        self._record = scene.input_record(scene.images_root)

    def of(self, frame: int, max_side: int) -> np.ndarray | None:
        """Return the image of a frame of the scene [H, W, 3] uint8, at most `max_side` wide and high.

        None where it is not to be had: moved, packed into an index, or a video without PyAV. Lenses stay.
        """
        side = max(self._frames[frame].image_hw)
        reduction = next((number for number in REDUCTIONS if side >= number * max_side), 1)
        try:
            image = Image.fromarray(read_frame_image(self._record, frame, reduction))
        except UserError:
            return None
        image.thumbnail((max_side, max_side))
        return np.asarray(image)
