import json
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

from tests.data_tools.miniature import Miniature

OPTIONS = ["mask=valid", "is_ordered=true"]


def write(folder: Path, scene: Miniature) -> None:
    """Depth is zero in places and wrong under the mask, the first frame has a camera of its own, the last no image;
    there is predicted depth too, which is nonsense."""
    place = folder / "blendedmvs" / "00dd871005"
    for name in ("images", "depth", "masks", "moge"):
        (place / name).mkdir(parents=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    fx, fy, cx, cy = (float(value) for value in scene.intrinsics[0])
    frames = []
    for i, image in enumerate(scene.images):
        stem = f"{i:06d}"
        Image.fromarray(image).save(place / "images" / f"{stem}.png")
        depth, mask = scene.depth[i].astype(np.float32), np.full(scene.hw, 255, np.uint8)
        depth[:10], depth[30:40, 30:60], mask[30:40, 30:60] = 0, 9, 0
        OpenEXR.File(header, {"Y": depth}).write(str(place / "depth" / f"{stem}.exr"))
        OpenEXR.File(header, {"Y": 1 / (1 + depth)}).write(str(place / "moge" / f"{stem}.exr"))
        Image.fromarray(mask).save(place / "masks" / f"{stem}.png")
        frames.append(
            {
                "frame_name": stem, "file_path": f"images/{stem}.png", "image": f"images/{stem}.png",
                "transform_matrix": scene.world_from_cam[i].tolist(), "rendered_depth": f"depth/{stem}.exr",
                "mask_path": f"masks/{stem}.png", "moge2_depth": f"moge/{stem}.exr",
            }
        )  # fmt: skip
    frames[0] |= {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
    frames.append(frames[0] | {"frame_name": "000099", "file_path": "images/000099.png"})
    height, width = scene.hw
    document = {
        "scene_name": "00dd871005", "dataset_name": "blendedmvs", "version": "0.1", "shared_intrinsics": False,
        "camera_model": "PINHOLE", "camera_convention": "opencv", "scale_type": "colmap",
        "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height, "frames": frames,
        "frame_modalities": {
            "image": {"frame_key": "image", "format": "image"},
            "depth": {"frame_key": "rendered_depth", "format": "depth"},
            "pred_depth": {"frame_key": "moge2_depth", "format": "depth"},
            "valid": {"frame_key": "mask", "format": "binary"},
        },
    }  # fmt: skip
    (place / "scene_meta.json").write_text(json.dumps(document))
