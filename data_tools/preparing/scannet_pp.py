"""Depth for ScanNet++, rendered from the laser scan's mesh.

Writes OUT/SCENE/{dslr, iphone}/render_depth/NAME.png: 16 bits, z in millimetres, 0 = nothing between 5 cm and 20 m, in
the pixels of the image as it is published, lens and all. Each file is written under another name and renamed when it
is complete; those that are there are not rendered again. OUT may be the folder of the data set itself. Anonymized
pixels are not cut out here: the index names their masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from scal3r_data_tools.adapters.scannet_pp import DEVICES, depth_name, devices_of, scenes_of, views
from scal3r_data_tools.formats.optional import optional
from scal3r_data_tools.jobs import run_jobs
from scal3r_data_tools.preparing.mesh_depth import PixelRays, pixel_rays, render_depth
from scal3r_train.config import StrictModel, UserError, atomic_output
from scal3r_train.data.camera.rectify import DistortedCamera
from scal3r_train.data.io.depth_codec import encode_uint16

MESH = "scans/mesh_aligned_0.05.ply"


class Options(StrictModel):
    """What is rendered."""

    device: Literal["dslr", "iphone", "both"] = Field("dslr", description="which camera")
    scenes: str = Field("", description='text file with one scene a line; "": all')
    num_workers: int = Field(
        2, gt=0, le=256, description="processes that render, each of which holds one mesh [processes]"
    )


def prepare(source: Path, output: Path, options: Options) -> None:
    """Render what is not there yet. Raises UserError for a scene without mesh, and when trimesh is not installed."""
    source, output = source.resolve(), output.resolve()
    scenes = scenes_of(source, options.scenes)
    cameras = devices_of(options.device)
    jobs = [
        (scene, device.name, output / scene.name)
        for scene in scenes
        for device in cameras
        if (scene / device.name / "colmap").is_dir()
    ]
    if not jobs:
        raise UserError(f"{source} holds no scene SCENE/{cameras[0].name}/colmap; check SRC and device=")
    for scene, _, _ in jobs:
        if not (scene / MESH).is_file():
            raise UserError(
                f"{scene / MESH} does not exist; download the scans, or leave the scene out with scenes=FILE"
            )
    if output == source:  # scenes may be in source/data
        jobs = [(scene, name, scene) for scene, name, _ in jobs]
    run_jobs(render_scene, jobs, options.num_workers, "scannet_pp")


def render_scene(scene: Path, device_name: str, output: Path) -> None:
    """Render the depth of all views of one camera of a scene that is not there yet."""
    device = DEVICES[device_name]
    usable, _ = views(scene, device, keep_bad=True)
    todo = [view for view in usable if not (output / depth_name(device, view.path)).is_file()]
    if not todo:
        return
    vertices, faces = load_mesh(scene / MESH)
    rays: dict[DistortedCamera, PixelRays] = {}
    for view in todo:
        camera = DistortedCamera(view.lens.model, view.lens.intrinsics, view.lens.coefficients, view.hw)
        if camera not in rays:
            rays = {camera: pixel_rays(camera)}  # one at a time: they are large
        depth = render_depth(vertices, faces, view.cam_from_world, rays[camera])
        with atomic_output(output / depth_name(device, view.path)) as temporary:
            Image.fromarray(encode_uint16(depth, "uint16_mm")).save(temporary)


def load_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] float64 and faces [F, 3] of a mesh file. Raises UserError when it cannot be read."""
    trimesh = optional("trimesh", "scannet_pp", "pip install 'scal3r_train[data]'")
    try:
        mesh = trimesh.load(path, process=False, force="mesh")
        vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    except Exception as error:  # whatever a parser of damaged bytes may raise
        raise UserError(f"mesh {path} cannot be read: {error}") from None
    if not len(faces):
        raise UserError(f"mesh {path} has no faces; is the download complete?")
    return vertices, faces
