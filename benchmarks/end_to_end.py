"""Real videos from files to what other programs open, on one process and on two: the same scene, or this says so.

python -m benchmarks.end_to_end [--checkpoint runs/demo/model] [--data ../shared/data] [key=value ...]

For game_loop and seven_scenes_kitchen: `scal3r reconstruct` alone and under torchrun with two processes, how far
cameras are apart (relative to the extent of the path), what was thought of loop candidates, and the exports to COLMAP
and PLY opened by pycolmap and trimesh. `make demo` makes the default checkpoint, of 0.7 M parameters: this shows
that everything runs and agrees, not how good a trained model is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from scal3r_train.data.index.index import load_index
from scal3r_train.scene.scene import Scene, load_scene

RECIPE = Path("recipes/reconstruct/demo.yaml")
CLI = ("-m", "scal3r_train.cli")


def command(*arguments: object, processes: int = 1) -> float:
    """Run a command of the project and return its seconds; what it says is shown when it fails."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr=127.0.0.1",
            f"--nproc-per-node={processes}",
        ]
    settings = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    subprocess.run(
        [*launcher, *CLI, *map(str, arguments)],
        env=os.environ | settings,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=None if processes == 1 else subprocess.DEVNULL,
    )
    return time.perf_counter() - begin


def difference(one: Scene, other: Scene) -> str:
    """Say how far two scenes are apart."""
    extent = (one.world_from_cam[:, :, 3] - one.world_from_cam[0, :, 3]).norm(dim=-1).max()
    centres = (one.world_from_cam[:, :, 3] - other.world_from_cam[:, :, 3]).norm(dim=-1).max() / extent
    turns = (one.world_from_cam[:, :, :3] - other.world_from_cam[:, :, :3]).abs().max()
    same = [verdicts(one) == verdicts(other), one.info.chunks == other.info.chunks]
    return (
        f"centres differ by {centres:.1e} of the extent {extent:.3g}, rotations by {turns:.1e}; "
        f"same loop verdicts and chunks: {all(same)}"
    )


def verdicts(scene: Scene) -> list[tuple[list[int], bool]]:
    """Return frames and verdict of every loop candidate."""
    return [(loop["frames"], loop["accepted"]) for loop in scene.info.loops]


def open_exports(scene: Path, folder: Path) -> None:
    """Export, open in the other programs and compare counts."""
    import pycolmap
    import trimesh

    truth = load_scene(scene)
    command("export", scene, folder / "colmap", "--to", "colmap")
    model = pycolmap.Reconstruction(folder / "colmap")
    command("export", scene, folder / "points.ply", "--to", "ply")
    cloud = trimesh.load(folder / "points.ply")
    print(
        f"  pycolmap: {model.num_reg_images()} images, {model.num_cameras()} cameras, {model.num_points3D()} points; "
        f"trimesh: {len(cloud.vertices)} points"
    )
    assert model.num_reg_images() == truth.info.num_frames
    assert model.num_points3D() == len(cloud.vertices) == truth.info.num_points
    centres = {image.name: image.projection_center() for image in model.images.values()}
    worst = max(
        float((torch.from_numpy(centres[frame.name]) - centre).norm())
        for frame, centre in zip(truth.frames, truth.world_from_cam[:, :, 3], strict=True)
    )
    extent = truth.world_from_cam[:, :, 3].abs().max()
    print(f"  camera centres of pycolmap and of the scene differ by {worst / extent:.1e} of the extent")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/demo/model"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", choices=("game_loop", "seven_scenes_kitchen"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        index = work / "kitchen.parquet"
        command("data", "index", "seven_scenes", arguments.data / "seven_scenes_kitchen", index)
        kitchen = f"{index}#{load_index(index)[0].sequence_id}"
        sources = {"game_loop": arguments.data / "game_loop" / "rgb", "seven_scenes_kitchen": kitchen}
        for video, source in sources.items():
            if arguments.only not in (None, video):
                continue
            print(video, *arguments.overrides)
            settings = [RECIPE, f"model.checkpoint={arguments.checkpoint}", *arguments.overrides]
            scenes = []
            for processes in (1, 2):
                output = work / f"{video}_{processes}"
                seconds = command("reconstruct", source, output, *settings, processes=processes)
                scenes.append(load_scene(output))
                found = scenes[-1].info
                print(
                    f"  {processes} process(es): {seconds:.0f} s, {found.num_frames} frames, {len(found.chunks)} "
                    f"chunks, {found.num_points} points, {sum(bool(seam['trusted']) for seam in found.seams)} of "
                    f"{len(found.seams)} seams trusted"
                )
            print(f"  {difference(*scenes)}")
            for loop in scenes[0].info.loops:
                verdict = "accepted" if loop["accepted"] else f"rejected: {loop['reason']}"
                print(f"  loop {loop['frames']}, similarity {loop['similarity']:.3f}: {verdict}")
            open_exports(work / f"{video}_1", work / video)


if __name__ == "__main__":
    main()
