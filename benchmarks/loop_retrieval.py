"""How well places seen again are found without any trained place recognition, and how long the search takes.

    python -m benchmarks.loop_retrieval --data ../shared/data     # game_loop and seven_scenes_kitchen
    python -m benchmarks.loop_retrieval                           # the search alone, on made-up descriptors

Encoders: `conv` and `dino` have random weights (one strided convolution; two transformer blocks), `demo` is the shipped
assets/scal3r-tiny in chunks of 8. A pair is right when the cameras are near and look the same way (10 m and 40 degrees
in game_loop, 0.4 m and 35 degrees in the kitchen). Columns: `recall@1`, of the frames that have a right partner more
than 60 frames away, the share whose most alike one is right; `av.prec`, average precision over all frames' most alike
ones; then of `find_loop_candidates`: the threshold, the number of candidates, of right ones before the first wrong one,
of all right ones, and of loop chunks planned for them.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from scal3r_train.inference.chunking import chunk_ranges
from scal3r_train.inference.loop_closure.frame_descriptors import frame_descriptor, thumbnail_descriptor
from scal3r_train.inference.loop_closure.retrieval import comparison_space, find_loop_candidates
from scal3r_train.inference.loop_closure.settings import LoopSettings
from scal3r_train.inference.loop_closure.windows import plan_loop_windows
from scal3r_train.model.aggregator import normalize_images
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.load_model import load_model
from scal3r_train.model.patch_encoder import ConvPatchEncoder, DinoPatchEncoder

DEMO = Path(__file__).parent.parent / "assets" / "scal3r-tiny"
REFERENCE = LoopSettings(
    num_components=0,
    temporal_window=1,
    min_similarity=0.92,
    min_gap=10,
    near_frames_compete=True,
    must_leave=False,
)
MIB, MIN_GAP = 1 << 20, 60


@dataclass(frozen=True)
class Scene:
    """A sequence with known cameras: images [S, 3, H, W] uint8, world_from_cam [S, 3, 4], what "near" means."""

    name: str
    images: Tensor
    world_from_cam: np.ndarray
    max_distance_m: float
    max_angle_deg: float

    def right_pairs(self) -> np.ndarray:
        """Mask [S, S] of pairs that show one place."""
        centres, forward = self.world_from_cam[:, :, 3], self.world_from_cam[:, :, 2]
        distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        angle = np.degrees(np.arccos(np.clip(forward @ forward.T, -1, 1)))
        return (distance < self.max_distance_m) & (angle < self.max_angle_deg)


def read_game_loop(folder: Path) -> Scene:
    """The drive round a circuit, 1.1 laps."""
    poses = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    return Scene("game_loop", _read_images(sorted(folder.glob("rgb/*.jpg")), (140, 252)), poses, 10, 40)


def read_kitchen(folder: Path) -> Scene:
    """A hand-held camera in a room, which looks at the same things again and again."""
    files = sorted(folder.glob("*.color.jpg"))
    poses = [np.loadtxt(str(file).replace(".color.jpg", ".pose.txt"))[:3] for file in files]
    return Scene("kitchen", _read_images(files, (140, 182)), np.stack(poses), 0.4, 35)


def _read_images(files: Sequence[Path], hw: tuple[int, int]) -> Tensor:
    images = [cv2.resize(cv2.imread(str(file)), hw[::-1], interpolation=cv2.INTER_AREA) for file in files]
    return torch.from_numpy(np.stack(images)[..., ::-1].copy()).movedim(-1, 1)


@torch.no_grad()
def random_encoder_descriptors(images: Tensor, kind: str) -> Tensor:
    """Descriptors of an encoder with 64 channels and random weights."""
    torch.manual_seed(0)
    encoder: torch.nn.Module = ConvPatchEncoder(14, 64)
    if kind == "dino":
        sizes = {"hidden_size": 64, "num_layers": 1, "num_heads": 4, "encoder_layers": 2, "encoder_heads": 4}
        encoder = DinoPatchEncoder(
            Scal3RConfig(
                image_size=252, tap_layers=[0], memory_layers=[], depth_head=False, point_head=False, **sizes
            )
        )
        for parameter in (encoder.pos_embed, encoder.cls_token, encoder.register_tokens):
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    return torch.cat(
        [frame_descriptor(encoder(normalize_images(part.float() / 255))) for part in images.split(32)]
    )


@torch.no_grad()
def demo_descriptors(images: Tensor) -> Tensor:
    """Descriptors of the demo's encoder, which sees motion: every frame from the chunk that provides it."""
    model = load_model(DEMO, torch.device("cpu"))
    small = torch.nn.functional.interpolate(
        images.float() / 255, size=(48, images.shape[-1] * 48 // images.shape[-2] // 12 * 12), mode="area"
    )
    parts = []
    for chunk in chunk_ranges(len(images), 8, 4):
        tokens = model.aggregator.patch_embed(normalize_images(small[chunk.start : chunk.stop])[None])[0]
        skipped = 0 if chunk.start == 0 else 2
        kept = len(chunk) if chunk.stop == len(images) else skipped + (4 if skipped else 6)
        parts.append(frame_descriptor(tokens[skipped:kept]))
    return torch.cat(parts)


def score(name: str, scene: Scene, descriptors: Tensor, settings: LoopSettings) -> None:
    """Print one line."""
    space = comparison_space(descriptors, settings.components, settings.window_in_time)
    similarity = (space @ space.mT).numpy()
    frames = np.arange(len(space))
    far = abs(frames[:, None] - frames) > MIN_GAP
    right = scene.right_pairs() & far
    best = np.where(far, similarity, -2).argmax(axis=1)
    is_right, has_partner = right[frames, best], right.any(axis=1)
    order = np.argsort(-similarity[frames, best], kind="stable")
    precision = is_right[order].cumsum() / (1 + frames)
    average = (precision * is_right[order]).sum() / has_partner.sum()
    search = find_loop_candidates(descriptors, settings)
    verdicts = [bool(right[pair.earlier, pair.later]) for pair in search.candidates]
    leading = verdicts.index(False) if False in verdicts else len(verdicts)
    planned, _ = plan_loop_windows(
        [(pair.later, pair.earlier) for pair in search.candidates], chunk_ranges(len(space), 60, 30), 20
    )
    print(
        f"{scene.name:10} {name:25} {is_right[has_partner].mean():8.2f} {average:7.2f} "
        f"{search.min_similarity:9.2f} {len(verdicts):10d} {leading:7d} {sum(verdicts):6d} {len(planned):7d}",
        flush=True,
    )


def compare_descriptors(scenes: Sequence[Scene]) -> None:
    """Print the table of descriptors."""
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "thumbnail": thumbnail_descriptor,
        "tokens, random conv": lambda images: random_encoder_descriptors(images, "conv"),
        "tokens, random dino": lambda images: random_encoder_descriptors(images, "dino"),
        "tokens, demo": demo_descriptors,
    }
    print("scene      descriptor                recall@1 av.prec threshold candidates leading  right windows")
    for scene in scenes:
        for name, make in makers.items():
            descriptors = make(scene.images)
            score(name, scene, descriptors, LoopSettings())
            if name == "thumbnail":
                score("thumbnail, reference", scene, descriptors, REFERENCE)
            else:
                raw = LoopSettings(num_components=0, temporal_window=1, min_similarity=0.92)
                score(f"{name}, raw", scene, descriptors, raw)


def time_search() -> None:
    """Print how long a search takes and what it adds to the process's memory."""
    print("frames  numbers  descriptors_MiB  added_MiB  seconds")
    for num_frames, dim in ((1_414, 384), (1_414, 6_144), (5_000, 6_144), (20_000, 1_536)):
        random = torch.Generator().manual_seed(0)
        descriptors = torch.randn(num_frames, dim, generator=random).cumsum(dim=0) / 10
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        find_loop_candidates(descriptors, LoopSettings())
        seconds = time.perf_counter() - start
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB
        size = descriptors.numel() * 4 / MIB
        print(f"{num_frames:6d} {dim:8d} {size:16.0f} {added:10.0f} {seconds:8.2f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with game_loop/ and seven_scenes_kitchen/")
    options = parser.parse_args(arguments)
    if options.data is None:
        time_search()
    else:
        compare_descriptors(
            [read_game_loop(options.data / "game_loop"), read_kitchen(options.data / "seven_scenes_kitchen")]
        )


if __name__ == "__main__":
    main()
