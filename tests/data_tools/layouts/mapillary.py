import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, make_miniature, pinhole_rays, render

FOCAL = 130.0


def scene() -> Miniature:
    """One focal length, the principal point in the middle; open above and ahead."""
    return make_miniature(focal=(FOCAL, FOCAL), centre_offset=(0, 0), has_sky=True)


def write(folder: Path, scene: Miniature) -> None:
    """Depth at half the images' resolution; a shot without a photo, a photo that is in no list."""
    height, width = scene.hw
    (folder / "train").mkdir()
    (folder / "val").mkdir()
    place = folder / "reconstruction_data" / "geoeven_4" / "2019-03-17T16_16_24.807705"
    place.mkdir(parents=True)
    keys = [f"_{i:02d}k-nlU2UVQ7bBPQKbiA" for i in range(scene.num_frames)]
    shots, photos = {}, {}
    for i, key in enumerate(keys):
        pose = scene.cam_from_world[i]
        rotation = Rotation.from_matrix(pose[:, :3]).as_rotvec()
        shots[key] = {
            "rotation": rotation.tolist(),
            "translation": pose[:, 3].tolist(),
            "camera": "v2 unknown",
        }
        photos[key] = {"focal": FOCAL / max(height, width)}
        Image.fromarray(scene.images[i]).save(folder / "train" / f"{key}.jpg", quality=95)
        rays = pinhole_rays(scene.intrinsics[i] / 2, (height // 2, width // 2))
        _, depth, _ = render(pose, rays, has_sky=True)
        centimetres = np.where(np.isfinite(depth), depth * 100 + 0.5, 0).astype(np.uint16)
        Image.fromarray(centimetres).save(folder / "train" / f"{key}.png")
    shots["zz_not_downloaded"] = shots[keys[0]]
    photos["zz_not_downloaded"] = photos[keys[0]]
    shots["zzz_in_no_list"] = shots[keys[0]]
    Image.fromarray(scene.images[0]).save(folder / "train" / "zzz_in_no_list.jpg")
    (folder / "train.json").write_text(json.dumps(photos))
    (folder / "val.json").write_text("{}")
    cameras = {"v2 unknown": {"projection_type": "perspective", "width": 640, "height": 480, "focal": 0.9}}
    (place / "reconstruction.json").write_text(
        json.dumps([{"cameras": cameras, "shots": shots, "points": {}}])
    )
    (place / "image_list.txt").write_text("".join(f"train/{key}.jpg\n" for key in shots))
    (place / "tracks.csv").write_text("")
