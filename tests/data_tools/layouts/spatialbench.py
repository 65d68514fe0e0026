import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature

OPTIONS = ("tags=7scenes+dense",)


def write(folder: Path, scene: Miniature) -> None:
    """A dense scene with one camera, and a sparse one of another set with a camera a frame, turned on its head."""
    write_scene(folder / "dense" / "7scenes" / "chess" / "seq-01", scene, range(scene.num_frames))
    turned = folder / "sparse" / "rlbench" / "pick" / "front"
    write_scene(turned, scene, range(0, scene.num_frames, 3), flips=True)
    frames = {turned: list(range(0, scene.num_frames, 3)), turned.parent: None}
    lists = [
        listed(
            "7scenes_chess_seq-01_dense",
            "7scenes",
            "chess/seq-01",
            "dense",
            "real",
            list(range(scene.num_frames)),
        ),
        listed("rlbench_pick_sparse", "rlbench", "pick/front", "sparse", "simulation", frames[turned] or []),
        listed("rlbench_lost_sparse", "rlbench", "lost", "sparse", "simulation", [1, 2]),
        listed("rlbench_pick_single", "rlbench", "pick/front", "single", "simulation", [1]),
    ]
    (folder / "all_scenes.json").write_text(json.dumps(lists))


def listed(
    name: str, dataset: str, path: str, density: str, kind: str, frames: list[int]
) -> dict[str, object]:
    tags = {"environment": "indoor", "dynamics": "static", "view_type": "normal", "data_type": kind}
    return {
        "scene_id": name,
        "source_dataset": dataset,
        "scene_path": path,
        "tags": tags | {"view_density": density},
        "frame_indices": frames,
        "num_frames_total": 1000,
    }


def write_scene(folder: Path, scene: Miniature, frames: range, *, flips: bool = False) -> None:
    for name in ("images", "depths", "poses", "intrinsics"):
        (folder / name).mkdir(parents=True)
    stems = [f"frame-{frame:06d}" for frame in frames]
    matrix = np.array([[fx, 0, cx - 0.5, 0, fy, cy - 0.5, 0, 0, 1] for fx, fy, cx, cy in scene.intrinsics])
    step = -1 if flips else 1  # stored upside down, as the benchmark keeps what it turns itself
    for stem, frame in zip(stems, frames, strict=True):
        Image.fromarray(scene.images[frame][::step, ::step]).save(folder / "images" / f"{stem}.png")
        counts = np.where(np.isfinite(scene.depth[frame]), np.rint(scene.depth[frame] * 1000), 0).astype(
            np.uint16
        )
        Image.fromarray(counts[::step, ::step]).save(folder / "depths" / f"{stem}.png")
        np.save(
            folder / "poses" / f"{stem}.npy",
            scene.world_from_cam[frame].astype(np.float32)[: 4 if flips else 3],
        )
        k = matrix[frame].reshape(3, 3).astype(np.float32)
        if flips:
            k[:2, 2] = np.array(scene.hw[::-1]) - 1 - k[:2, 2]
            np.save(folder / "intrinsics" / f"{stem}.npy", k)
    meta: dict[str, object] = {"depth_format": "uint16_png_div1000", "frame_indices": list(frames)}
    if flips:
        meta |= {"intrinsic_mode": "per_frame"}
        meta["pyrep_flip"] = [{"basename": stem, "flip_lr": True, "flip_ud": True} for stem in stems]
    else:
        np.save(folder / "intrinsics" / "intrinsic.npy", matrix[0].reshape(3, 3).astype(np.float32))
    (folder / "meta.json").write_text(json.dumps(meta))
