"""The authors' release and ours by its rules (recipes/reconstruct/official.yaml), on one set of random weights.

    python -m benchmarks.official CHECKOUT [--python PYTHON] [--keep FOLDER]

CHECKOUT is a checkout of the release (https://github.com/zju3dv/Scal3R, measured at commit dc557e7); PYTHON one that
has what it needs, when that is not this one. Both get the same weights, sixteen images made here and chunks of 6
frames that share 3. The network is the release's smallest DINOv2 and four layers with two memories. Once without
loops, and once with: the last three images look like the first three, so that one loop chunk writes to the memories
and closes a loop. Nothing of the release is part of this repository; `release_driver.py` runs its own main function.

Printed, against the release: the largest distance of two camera centres over the trajectory's extent, no alignment in
between, since the world is the release's too; the largest angle between two cameras; the largest relative difference
of focal lengths; the median and largest relative difference of depth. The goal is 1e-3 of the extent for the recipe.
Beside it the release itself with weights moved by 1e-7 of their size, which is as far as its bfloat16 Newton-Schulz
lets anyone agree (docs/numerics.md#conditioning), and results that should differ: other rules, and without memories or
loops. CPU, one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.findings import Findings, add_json_option
from scal3r_train.config import UserError, load_config
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import official_key_from_ours
from scal3r_train.model.load_model import load_model_as_set
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import Scene, depth_path

ROOT = Path(__file__).resolve().parent.parent
DRIVER = Path(__file__).with_name("release_driver.py")
BACKEND = Path("scal3r/pipelines/backend.py")
NUM_FRAMES, CHUNK_SIZE, OVERLAP = 16, 6, 3
PERIOD = 13  # frames after which the camera is where it began
IMAGE_HW = (70, 98)
GOAL = 1e-3  # of the extent
MOVED = 1e-7  # of the size of a weight: about the last bit
LIMIT_S = 1800

# Of the release's smallest DINOv2 (dinov2_vits14_reg), which nothing but its name sets.
ENCODER = {"hidden_size": 384, "encoder_layers": 12, "encoder_heads": 6, "image_size": 98}
SIZES = {
    **ENCODER,
    "num_layers": 4,
    "num_heads": 6,
    "tap_layers": [0, 1, 2, 3],
    "memory_layers": [1, 3],
    "camera_layers": 2,
    "camera_heads": 6,
    "dpt_features": 32,
    "dpt_channels": [32, 32, 64, 64],
}
OUR_CHUNKS = [f"schedule.chunk_size={CHUNK_SIZE}", f"schedule.overlap={OVERLAP}", "input.resize.size=98"]
OF_OUTPUT = ["export.save_depth=true", "export.report=false", "export.max_points=1000"]


@dataclass(frozen=True, eq=False)
class Found:
    """A scene: cameras [S, 3, 4] world_from_cam, focal lengths [S, 2] and depth [S, H, W] in world units, float64."""

    world_from_cam: Tensor
    focal: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Agreement:
    """How far two scenes are apart; `centre` is a share of the extent, focal and depth are relative."""

    centre: float
    turn_deg: float
    focal: float
    depth_median: float
    depth_largest: float

    @staticmethod
    def of(one: Found, other: Found) -> Agreement:
        """Compare; the extent is the largest distance of two camera centres of `one`."""
        centres = one.world_from_cam[:, :, 3]
        extent = torch.cdist(centres, centres).max()
        turn = one.world_from_cam[:, :, :3].transpose(1, 2) @ other.world_from_cam[:, :, :3]
        # |R - 1| = 2 sqrt(2) sin(angle / 2), precise for small angles too.
        half = (turn - torch.eye(3, dtype=turn.dtype)).flatten(1).norm(dim=1) / math.sqrt(8)
        depth = (other.depth / one.depth).log().abs()
        return Agreement(
            float((centres - other.world_from_cam[:, :, 3]).norm(dim=1).max() / extent),
            float(torch.rad2deg(2 * torch.arcsin(half.clamp(max=1))).max()),
            float((other.focal / one.focal).log().abs().max()),
            float(depth.median()),
            float(depth.max()),
        )

    def row(self, name: str) -> str:
        """A line of the table."""
        values = (self.centre, self.turn_deg, self.focal, self.depth_median, self.depth_largest)
        return f"{name:<38}" + "".join(f"{value:>11.1e}" for value in values)


def main(words: list[str] | None = None) -> int:
    """Run both and print how far they agree; 1 when the recipe misses the goal, 2 when the release cannot run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of the release's code")
    parser.add_argument("--python", default=sys.executable, help="Python that can run the release")
    parser.add_argument("--keep", type=Path, help="new folder for images, weights and results")
    add_json_option(parser)
    asked = parser.parse_args(words)
    try:
        with _work_folder(asked.keep) as folder:
            found = compare(asked.checkout, asked.python, folder)
    except UserError as error:
        print(f"benchmarks.official: error: {error}", file=sys.stderr)
        return 2
    Findings(time={}, bytes={name: agreement.centre for name, agreement in found.items()}).save(asked.json)
    missed = [name for name, agreement in found.items() if not agreement.centre <= GOAL]
    print(f"goal: centres within {GOAL:g} of the extent: " + ("missed" if missed else "reached"))
    return 1 if missed else 0


def compare(checkout: Path, python: str, folder: Path) -> dict[str, Agreement]:
    """Print the table; return the agreement of the official recipe with and without loops.

    Raises:
        UserError: the folder is no checkout of the release, or the release fails.
    """
    refuse_other_folders(checkout)
    make_inputs(folder)
    print(f"{NUM_FRAMES} frames, chunks of {CHUNK_SIZE} that share {OVERLAP}; largest differences")
    print(
        f"{'':<38}" + "".join(f"{name:>11}" for name in ("centre", "turn deg", "focal", "depth", "largest"))
    )
    found, plain = {}, run_release(checkout, python, folder, "official.pt", loops=False)
    for name, theirs in (
        ("no loops", plain),
        ("one loop", run_release(checkout, python, folder, "official.pt", loops=True)),
    ):
        print(name)
        loops = theirs is not plain
        found[name] = Agreement.of(theirs, run_ours(folder, loops=loops))
        print(found[name].row("  official.yaml"))
        moved = run_release(checkout, python, folder, "moved.pt", loops=loops)
        print(Agreement.of(theirs, moved).row("  the release, weights moved by 1e-7"))
        if loops:
            print(Agreement.of(theirs, plain).row("  the release, no loops"))
            continue
        float32 = run_ours(folder, "model.newton_schulz_dtype=working")
        print(Agreement.of(theirs, float32).row("  official.yaml, memories in float32"))
        print(Agreement.of(theirs, run_ours(folder, "model.memory=off")).row("  official.yaml, no memories"))
        print(Agreement.of(theirs, run_ours(folder, recipe_name="default")).row("  default.yaml"))
    return found


def refuse_other_folders(checkout: Path) -> None:
    """Raise a UserError unless the folder holds the release's code."""
    if not (checkout / BACKEND).is_file():
        raise UserError(
            f"{checkout} is no checkout of the release: {BACKEND} is not in it; clone "
            "https://github.com/zju3dv/Scal3R and pass its folder"
        )


@contextmanager
def _work_folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if keep.exists():
            raise UserError(f"--keep {keep} exists; name a new folder")
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    with TemporaryDirectory(prefix="scal3r-official-") as name:
        yield Path(name)


def make_inputs(folder: Path) -> None:
    """Write images, the weights in both forms, and the release's configuration of this network."""
    write_images(folder / "images")
    model = random_model()
    model.save_pretrained(folder / "model")
    state = {official_key_from_ours(key): value.clone() for key, value in model.state_dict().items()}
    torch.save(state, folder / "official.pt")
    moved = {key: value * (1 + MOVED * torch.randn_like(value)) for key, value in state.items()}
    torch.save(moved, folder / "moved.pt")
    (folder / "official.yaml").write_text(json.dumps(release_config()), encoding="utf-8")


def write_images(folder: Path) -> None:
    """Write sixteen views of a smooth random panorama, of the processed size, so that nothing is resized."""
    folder.mkdir()
    random = np.random.default_rng(0)
    height, width = IMAGE_HW
    side = width + 40
    coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, 8, 14)))
    fine = torch.from_numpy(random.uniform(-30, 30, (1, 3, 40, 70)))
    panorama = sum(
        torch.nn.functional.interpolate(part, size=(height + 20, side), mode="bicubic", align_corners=True)[0]
        for part in (coarse, fine)
    )
    assert isinstance(panorama, Tensor)
    for frame in range(NUM_FRAMES):
        angle = 2 * math.pi * frame / PERIOD
        top, left = round(10 + 9 * math.sin(angle)), round(20 + 19 * math.cos(angle))
        view = panorama[:, top : top + height, left : left + width].movedim(0, -1).numpy()
        noisy = view + random.normal(0, 2, view.shape)  # equal images would tie in the search for loops
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{frame:06d}.png")


def random_model() -> Scal3RModel:
    """Return a network of random weights with cameras that differ; its memories are as training begins, gate 0.1."""
    torch.manual_seed(0)
    model = Scal3RModel(Scal3RConfig(**SIZES)).eval()
    with torch.no_grad():
        output = model.camera_head.pose_branch.fc2
        torch.nn.init.normal_(output.weight, std=0.02)
        output.bias.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 0.5, 0.25, 0.3]))  # four iterations add up
    return model


def release_config() -> dict[str, object]:
    """Return what the release's configuration file says of this network; YAML reads JSON."""
    heads = {
        "features": SIZES["dpt_features"],
        "out_channels": SIZES["dpt_channels"],
        "conf_activation": "expp1",
    }
    network = {
        "agg_regator_cfg": {
            "patch_embed": "dinov2_vits14_reg",
            "img_size": SIZES["image_size"],
            "patch_size": 14,
            "embed_dim": SIZES["hidden_size"],
            "depth": SIZES["num_layers"],
            "num_heads": SIZES["num_heads"],
            "intermediate_layer_idx": SIZES["tap_layers"],
            "frame_use_ttt": False,
            "global_use_ttt": True,
            "ttt_layer_idx": SIZES["memory_layers"],
            "ttt_cfg": {
                "num_heads": 1,
                "inter_multi": 4,
                "base_lr": 0.01,
                "muon_update_steps": 5,
                "use_ddp_allreduce": True,
                "use_modulation": True,
            },
        },
        "cam_decoder_cfg": {"trunk_depth": SIZES["camera_layers"], "num_heads": SIZES["camera_heads"]},
        "xyz_decoder_cfg": {**heads, "output_dim": 4, "activation": "inv_log"},
        "dpt_decoder_cfg": {**heads, "output_dim": 2, "activation": "exp"},
    }
    images = {
        "proc_max_size": IMAGE_HW[1],
        "proc_align_size": 14,
        "center_crop": True,
        "cam_param_type": "abs_quat_fov",
        "use_world_coord": True,
    }
    return {
        "model_cfg": {"sampler_cfg": network},
        "val_dataloader_cfg": {"dataset_cfg": images},
    }


def run_release(checkout: Path, python: str, folder: Path, weights: str, *, loops: bool) -> Found:
    """Return what the release makes of the images; UserError with its last line when it fails."""
    name = f"release_{Path(weights).stem}_{'loops' if loops else 'plain'}"
    result = folder / f"{name}.npz"
    flags: dict[str, object] = {
        "config": folder / "official.yaml",
        "checkpoint": folder / weights,
        "input_dir": folder / "images",
        "result_dir": folder / name,
        "block_size": CHUNK_SIZE,
        "overlap_size": OVERLAP,
        "use_loop": int(loops),
        "loop_ckpt": "",  # thumbnails: place recognition needs weights
        "preprocess_workers": 1,
        "save_dpt": 1,
        "save_xyz": 0,
        "device": "cpu",
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    command = [python, str(DRIVER), str(checkout.resolve()), str(result), *words]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            env=os.environ | threads,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except OSError as error:
        raise UserError(f"--python {python} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"the release did not end within {LIMIT_S} s") from None
    if done.returncode != 0 or not result.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise UserError(
            f"the release fails: {lines[-1].strip()} (is its environment {python}? --python names another)"
        )
    with np.load(result) as file:
        c2w, ixt, depth = (torch.from_numpy(file[key]).double() for key in ("c2w", "ixt", "depth"))
    scale = torch.linalg.det(c2w[:, :3, :3]) ** (1 / 3)
    cameras = torch.cat([c2w[:, :3, :3] / scale[:, None, None], c2w[:, :3, 3:]], dim=2)
    focal = torch.diagonal(ixt, dim1=1, dim2=2)[:, :2]
    return Found(cameras, focal, depth.unflatten(1, IMAGE_HW) * scale[:, None, None])


def run_ours(folder: Path, *changes: str, recipe_name: str = "official", loops: bool = False) -> Found:
    """Return what we make of them, by a recipe of recipes/reconstruct with changes."""
    settings = [
        f"model.checkpoint={folder / 'model'}",
        *OUR_CHUNKS,
        *OF_OUTPUT,
        f"loop_closure.enabled={str(loops).lower()}",
        *changes,
    ]
    recipe = load_config(ReconstructionRecipe, ROOT / f"recipes/reconstruct/{recipe_name}.yaml", settings)
    model = load_model_as_set(recipe.model, torch.device("cpu"))
    output = folder / "_".join(["ours", recipe_name, *changes, "loops" if loops else "plain"])
    scene: Scene | None = reconstruct(folder / "images", model, recipe, output)
    assert scene is not None
    if loops:
        assert any(loop["accepted"] for loop in scene.info.loops), "the sixteen images hold no loop"
    depth = [np.load(depth_path(output, frame))["depth"] for frame in range(NUM_FRAMES)]
    focal = torch.diagonal(scene.intrinsics, dim1=1, dim2=2)[:, :2]
    return Found(scene.world_from_cam.double(), focal.double(), torch.from_numpy(np.stack(depth)).double())


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
