"""Cameras and points of a folder of images or a video, from Python.

    python examples/reconstruct_folder.py images/ scene/ checkpoints/scal3r

Without a checkpoint the small one that comes with the package runs, whose result on real video is no good.
"""

import sys

import numpy as np

from scal3r_train import Scene, reconstruct


def main(images: str, out: str, model: str = "scal3r-tiny") -> Scene:
    """Reconstruct, say where every frame was taken, and return the scene."""
    scene = reconstruct(images, model, out, input__max_frames=500)
    for frame, pose, intrinsics in zip(scene.frames, scene.world_from_cam, scene.intrinsics, strict=True):
        x, y, z = pose[:, 3].tolist()
        print(f"{frame.name}: at ({x:.2f}, {y:.2f}, {z:.2f}), focal length {intrinsics[0, 0]:.0f} pixels")
    confident = scene.confidence > np.median(scene.confidence)
    low, high = scene.positions[confident].min(0), scene.positions[confident].max(0)
    print(f"{len(scene.positions)} points; the more confident half lies between {low} and {high}")
    print(f"{out}: report.html to look at; `scal3r export {out} points.ply --to ply` for other programs")
    return scene


if __name__ == "__main__":
    main(*sys.argv[1:])
