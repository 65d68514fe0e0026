"""Cuts `assets/clips/circuit` out of a held-out circuit: images, true poses, intrinsics.

    scal3r data prepare circuits SRC circuits/
    python -m benchmarks.clip circuits/ruudskogen/000 assets/clips/circuit

Every second of 400 consecutive frames, copied bit for bit. Poses are world_from_cam of the first frame's world, in
metres, a line of 12 numbers a frame (KITTI's format); intrinsics are fx fy cx cy, pixel centres at half integers.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scal3r_data_tools.adapters import circuits
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory

FIRST, STEP, NUM_FRAMES = 3000, 2, 200
README = """# A drive of 200 frames

{metres:.0f} m of the circuit *{circuit}* of {game}, rendered at 144 x 84 by `scal3r data prepare circuits`; training
never sees this circuit. `poses.txt` holds the true cameras (world_from_cam, metres, KITTI's format), `intrinsics.txt`
fx fy cx cy in pixels. Made by `python -m benchmarks.clip`. The folder is found by name where the package is installed:
`scal3r reconstruct clips/circuit scene/ ...`.

```
scal3r reconstruct assets/clips/circuit scene/ small
scal3r report scene/ --truth assets/clips/circuit/poses.txt
```

Licence of images and shapes: {licence}. Authors: {authors}.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder, which must not exist."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("drive", type=Path, help="folder of a drive")
    parser.add_argument("output", type=Path)
    parser.add_argument("--first", type=int, default=FIRST)
    options = parser.parse_args(arguments)
    (record,) = circuits.index(options.drive, circuits.Options())
    assert record.split == "test", "the clip is of a circuit that no model was trained on"
    frames = range(options.first, options.first + STEP * NUM_FRAMES, STEP)
    options.output.mkdir(parents=True)
    for number, frame in enumerate(frames):
        shutil.copyfile(options.drive / record.image[frame], options.output / f"{number:06d}.jpg")
    extrinsics = torch.from_numpy(record.cam_from_world[list(frames)]).double()
    world_from_cam = invert_extrinsics(extrinsics)
    rotation = world_from_cam[:1, :, :3].mT @ world_from_cam[:, :, :3]
    centres = world_from_cam[:1, :, :3].mT @ (world_from_cam[:, :, 3:] - world_from_cam[:1, :, 3:])
    poses = torch.cat([rotation, centres], -1)
    write_trajectory(options.output / "poses.txt", Trajectory(poses, None), "kitti")
    np.savetxt(options.output / "intrinsics.txt", record.intrinsics[options.first][None], fmt="%.9g")
    facts = json.loads((options.drive / circuits.DRIVE_FILE).read_text(encoding="utf-8"))
    metres = float(centres.squeeze(-1).diff(dim=0).norm(dim=1).sum())
    (options.output / "README.md").write_text(README.format(metres=metres, **facts), encoding="utf-8")


if __name__ == "__main__":
    main()
