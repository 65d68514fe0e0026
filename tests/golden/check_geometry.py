"""Goldens of geometry: pose encoding, and the alignment of two chunks with the reference's settings."""

import torch
from torch import Tensor

from scal3r_train.geometry.camera import invert_extrinsics, unproject, world_points_from_depth
from scal3r_train.geometry.pose_encoding import decode_pose, encode_pose
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import RobustFitSettings, fit_robust
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.correspondences import find_correspondences, keep_confident
from scal3r_train.inference.alignment.seam import Seam, align_chunks, chain
from scal3r_train.inference.alignment.settings import AlignmentSettings
from tests.golden.reader import Golden


def check_pose_encoding(golden: Golden) -> dict[str, Tensor]:
    """Kind pose_encoding; the reference's rays are those of unit z-depth, turned into the world."""
    image_hw = tuple(golden.config["hw"])
    extrinsics, intrinsics = decode_pose(golden["in.pose_enc"], image_hw)
    world_from_cam = invert_extrinsics(extrinsics)
    bottom = torch.tensor([0.0, 0, 0, 1]).expand(len(extrinsics), 1, 4)
    depth = golden["in.depth"][..., 0]
    rays_cam = unproject(torch.ones_like(depth), intrinsics)
    rays = torch.einsum("bij,bhwj->bhwi", world_from_cam[:, :, :3], rays_cam)
    return {
        "out.w2c": extrinsics,
        "out.K": intrinsics,
        "out.c2w": torch.cat([world_from_cam, bottom], dim=1),
        "out.rays_o": world_from_cam[:, None, None, :, 3].expand_as(golden["out.rays_o"]),
        "out.rays_d": rays,
        "out.points": world_points_from_depth(depth, intrinsics, extrinsics),
        "out.derived.encoded": encode_pose(extrinsics, intrinsics, image_hw),
    }


def check_sim3_align(golden: Golden) -> dict[str, Tensor]:
    """Kind sim3_align: chunk B onto chunk A in the reference's three modes and every weighted solve."""
    earlier, later = _chunk(golden, "A"), _chunk(golden, "B")
    result: dict[str, Tensor] = {
        "mid.valid.count": torch.stack([earlier.valid.sum(), later.valid.sum()]),
    }
    for name, mode in {"se3": "se3", "sim3": "sim3_unweighted", "sim3_wet": "sim3"}.items():
        seam = align_chunks(earlier, later, _settings(golden, mode))
        result |= _named(f"out.{name}", seam.earlier_from_later)
        result[f"out.{name}.global_pose_B"] = _pose_of_second(seam)
    settings = _settings(golden, "sim3")
    shared = find_correspondences(earlier, later, settings)
    kept = keep_confident(shared, settings)
    weights = (kept.earlier_confidence * kept.later_confidence).sqrt()
    result["mid.overlap.count"] = torch.tensor(len(shared))
    result["mid.kept.count"] = torch.tensor(len(kept))
    result["mid.kept.weight_sum"] = weights.sum()
    if golden.config["max_align_points_per_frame"] is None:
        result |= {"mid.overlap.prev_xyz": shared.earlier, "mid.overlap.curr_xyz": shared.later}
    for index, sim3 in enumerate(fit_robust(kept.later, kept.earlier, weights, settings.robust).solves):
        result |= _named(f"mid.sim3_wet.iter{index}", sim3)
    return {key: value for key, value in result.items() if key in golden.tensors or key.startswith("out.")}


def _settings(golden: Golden, mode: str) -> AlignmentSettings:
    """The reference's behaviour in our settings, with the golden's numbers."""
    config = golden.config
    return AlignmentSettings(
        mode=mode,
        evidence="points",
        all_pixels=False,
        depth_noise=False,
        confidence_threshold_ratio=config["conf_thres"],
        confidence_floor=0,
        max_points_per_frame=config["max_align_points_per_frame"],
        min_points=3,
        robust=RobustFitSettings(
            method="huber",
            huber_delta=config["huber_delta"],
            max_rounds=config["max_iters"],
            tolerance=config["exit_thres"],
            discard_last_estimate=True,
        ),
    )


def _chunk(golden: Golden, letter: str) -> ChunkGeometry:
    """Chunk A (earlier) or B (later); validity as in docs/numerics.md#points-of-a-chunk.

    The golden has no cameras, nor needs them.
    """
    height, width = golden.config["hw"]
    tensors = {
        key: golden[f"in.{letter}.{key}"].unflatten(1, (height, width))
        for key in ("xyz", "cnf", "dpt", "msk")
    }
    depth = tensors["dpt"][..., 0]
    valid = tensors["msk"][..., 0] & depth.isfinite() & (depth > 0)
    frames = golden[f"in.{letter}.frames"].tolist()
    extrinsics = torch.full((len(frames), 3, 4), torch.nan)
    return ChunkGeometry(frames, tensors["xyz"], tensors["cnf"][..., 0], valid, extrinsics)


def _named(prefix: str, sim3: Sim3) -> dict[str, Tensor]:
    """A similarity's parts under the golden's names."""
    return {f"{prefix}.s": sim3.scale, f"{prefix}.R": sim3.rotation, f"{prefix}.t": sim3.translation}


def _pose_of_second(seam: Seam) -> Tensor:
    """world_from_chunk of the second chunk as a 4 x 4 matrix."""
    return chain([seam])[1].matrix()
