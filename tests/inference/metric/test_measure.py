"""Every source of metric scale on a small drive whose truth is known: the right metres, and an honest error."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from scal3r_train.config import UserError, validate_mapping
from scal3r_train.data.io.depth_codec import encode_uint16
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.geodesy import enu_from_geodetic, geodetic_from_enu
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import fit_umeyama
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.settings import CommonScaleSettings
from scal3r_train.inference.metric.chunk_cameras import ChunkCameras
from scal3r_train.inference.metric.measure import InMetres
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from tests.inference.metric.truth_run import NO_NOISE, Noise, TruthRun, make_truth_run

NUM_FRAMES, HEIGHT, WIDTH = 40, 14, 28
CAMERA_HEIGHT, WALL = 1.6, 25.0
INTRINSICS = torch.tensor([[16.0, 0, 14], [0, 16, 6], [0, 0, 1]], dtype=torch.float64)
ENU_FROM_WORLD = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # looking north
ORIGIN = np.array([50.7753, 6.0839, 173.0])
SMALL = Noise(pixel=0.01, frame=0.01, rotation_deg=0.05, step=0.01)

Drive = Callable[..., TruthRun]


def cameras(*, straight: bool = False) -> Tensor:
    """A drive of a metre a frame, round a bend or straight on, with y down: world_from_cam [S, 3, 4]."""
    poses = []
    centre = torch.zeros(3, dtype=torch.float64)
    for frame in range(NUM_FRAMES):
        heading = torch.tensor(0.0 if straight else 0.05 * frame, dtype=torch.float64)
        sine, cosine, zero, one = (
            heading.sin(),
            heading.cos(),
            torch.zeros_like(heading),
            torch.ones_like(heading),
        )
        rotation = torch.stack([cosine, zero, sine, zero, one, zero, -sine, zero, cosine]).reshape(3, 3)
        poses.append(torch.cat([rotation, centre[:, None]], dim=1))
        centre = centre + rotation[:, 2]
    return torch.stack(poses)


def road(_: int) -> Tensor:
    """Depth [H, W] of a level ground and, above the horizon and far away, of something upright."""
    rows = (torch.arange(HEIGHT, dtype=torch.float64) + 0.5 - 6) / 16
    depth = torch.where(rows > 0, CAMERA_HEIGHT / rows.clamp(min=1e-9), WALL).clamp(max=WALL)
    return depth[:, None].expand(HEIGHT, WIDTH).contiguous()


def record(folder: Path) -> SequenceRecord:
    return SequenceRecord(
        dataset="images",
        sequence_id="drive",
        root=folder,
        image=tuple(f"{frame:04d}.png" for frame in range(NUM_FRAMES)),
        image_size=np.tile([HEIGHT, WIDTH], (NUM_FRAMES, 1)),
        timestamp=100 + 0.5 * np.arange(NUM_FRAMES),
    )


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """Return a function that makes a run with a source of metres."""

    def make(
        metric: dict[str, Any],
        noise: Noise = SMALL,
        *,
        seed: int = 0,
        straight: bool = False,
        chunk_size: int = 12,
    ) -> TruthRun:
        mapping = {
            "input": {"image_hw": [HEIGHT, WIDTH]},
            "schedule": {"chunk_size": chunk_size, "overlap": 6},
            "alignment": {"metric": metric},
        }
        recipe = validate_mapping(ReconstructionRecipe, mapping, "test")
        truth = cameras(straight=straight)
        output = tmp_path / "scene"
        return make_truth_run(
            record(tmp_path), recipe, truth, INTRINSICS, road, output, noise=noise, seed=seed
        )

    return make


def fixes(path: Path, *, std: float = 0.0, straight: bool = False, every: float = 1.3) -> Path:
    """Write a GPS track whose clock is 7 s ahead of the images', from before the first to after the last."""
    times = np.arange(100 - 2 * every, 100 + NUM_FRAMES / 2 + every, every)
    centres = cameras(straight=straight)[:, :, 3].numpy()
    frame = (times - 100) / 0.5
    centre = np.stack([np.interp(frame, np.arange(NUM_FRAMES), column) for column in centres.T], -1)
    enu = centre @ ENU_FROM_WORLD.numpy().T + std * np.random.default_rng(0).normal(size=centre.shape)
    rows = np.column_stack([times + 7, geodetic_from_enu(enu + [100, 200, 3], ORIGIN)])
    path.write_text("time,lat,lon,alt\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist()))
    return path


def honest(made: TruthRun, found: InMetres, most: float) -> None:
    """The error lies within what was stated (to three times, for a single draw), and that is no more than `most`."""
    assert found.scale.relative_std is not None
    assert found.scale.relative_std < most
    is_local = found.scale.source in ("camera_height", "depth")
    error = made.local_scale_error(found) if is_local else made.scale_error(found)
    assert abs(error) < 3 * found.scale.relative_std


def test_gps(drive: Drive, tmp_path: Path) -> None:
    path = fixes(tmp_path / "fixes.csv", std=0.1)
    made = drive({"gps": str(path), "time_offset_s": 7.0, "gps_correlation_s": 0.0})
    found = made.in_metres()
    honest(made, found, 0.02)
    assert (found.scale.source, found.scale.file) == ("gps", str(path))
    assert found.scale.num_measurements < found.scale.num_given
    assert found.georeference is not None
    # The second camera, ten metres ahead and a little below: where the truth has it.
    ahead = np.array([[0, 0.5, 10.0]])
    there = enu_from_geodetic(found.georeference.geodetic(ahead), ORIGIN)
    wanted = ahead @ ENU_FROM_WORLD.numpy().T + [100, 200, 3]
    np.testing.assert_allclose(there, wanted, atol=0.3)
    first = found.placement.world_from_chunk[0].apply_to_world_from_cam(
        ChunkCameras.gather(made.run, made.predictions).chunk_from_cam[0][0]  # type: ignore[arg-type]
    )
    torch.testing.assert_close(first, torch.eye(3, 4, dtype=torch.float64))
    assert made.predictions[0].depth[0].median() * found.scale.metres_per_unit == pytest.approx(
        float(road(0).median()), rel=0.05
    )


def test_fixes_bend_a_chain_that_drifts(drive: Drive, tmp_path: Path) -> None:
    """Seams of which each is 4 % too small: the fixes take most of it out, though one in seven is wrong."""
    path = fixes(tmp_path / "fixes.csv", std=0.05, every=0.6)
    lines = path.read_text().splitlines()
    for row in range(6, len(lines), 7):
        words = lines[row].split(",")
        lines[row] = ",".join([words[0], repr(float(words[1]) + 0.0005), *words[2:]])
    path.write_text("\n".join(lines) + "\n")
    made = drive({"gps": str(path), "time_offset_s": 7.0, "gps_correlation_s": 0.0}, NO_NOISE)
    placement = made.placement
    drifting = [
        replace(
            seam,
            earlier_from_later=replace(seam.earlier_from_later, scale=0.96 * seam.earlier_from_later.scale),
        )
        for seam in placement.seams
    ]
    noisy = [
        replace(seam, quality=replace(seam.quality, residual_median=0.05, wander=None)) for seam in drifting
    ]
    torn = replace(made, placement=along(made, placement, noisy))
    before, after = (path_error(made, chunks) for chunks in (torn.placement.world_from_chunk, bent(torn)))
    assert before > 0.3
    assert after < 0.25 * before


SEPARATE = CommonScaleSettings(enabled=False)


def along(made: TruthRun, placement: Placement, seams: list[Seam]) -> Placement:
    extrinsics = made.predictions[0].extrinsics[0]
    recipe = made.run.recipe.model_copy(
        update={"alignment": made.run.recipe.alignment.model_copy(update={"common_scale": SEPARATE})}
    )
    return Placement.along_seams(placement.layout, seams, extrinsics, placement.median_depth, recipe)


def bent(made: TruthRun) -> list[Sim3]:
    found = made.in_metres()
    assert "2 of" in found.scale.notes[-1] or "outliers" in found.scale.notes[-1]
    return found.placement.world_from_chunk


def path_error(made: TruthRun, world_from_chunk: list[Sim3]) -> float:
    placed = ChunkCameras.gather(made.run, made.predictions).world_from_cam(world_from_chunk)  # type: ignore[arg-type]
    truth = made.world_from_cam[:, :, 3]
    fitted = fit_umeyama(placed[:, :, 3], truth).apply(placed[:, :, 3])
    return float((fitted - truth).square().sum(1).mean().sqrt())


def test_a_straight_drive_stands_upright_and_says_so(drive: Drive, tmp_path: Path) -> None:
    path = fixes(tmp_path / "fixes.csv", std=0.02, straight=True)
    found = drive({"gps": str(path), "time_offset_s": 7.0}, straight=True).in_metres()
    assert any("straight line" in note for note in found.scale.notes)
    assert found.georeference is not None
    rotation = np.array(found.georeference.enu_from_world)[:, :3]
    np.testing.assert_allclose(rotation, ENU_FROM_WORLD.numpy(), atol=0.05)


def test_poses_in_another_world(drive: Drive, tmp_path: Path) -> None:
    moved = Sim3(torch.tensor(1.0).double(), ENU_FROM_WORLD, torch.tensor([5.0, 6, 7]).double())
    world_from_cam = moved.apply_to_world_from_cam(cameras())
    times = torch.from_numpy(record(tmp_path).timestamp)
    write_trajectory(tmp_path / "poses.txt", Trajectory(world_from_cam, times), "tum")
    made = drive({"poses": str(tmp_path / "poses.txt")})
    by_time = made.in_metres()
    honest(made, by_time, 0.01)
    assert by_time.georeference is None
    write_trajectory(tmp_path / "poses.txt", Trajectory(world_from_cam, None), "kitti")
    by_frame = drive({"poses": str(tmp_path / "poses.txt")}).in_metres()
    assert by_frame.scale.metres_per_unit == pytest.approx(by_time.scale.metres_per_unit, rel=1e-9)


def test_distance_is_exact_between_its_frames(drive: Drive) -> None:
    apart = float((cameras()[4, :, 3] - cameras()[33, :, 3]).norm())
    made = drive({"distance": [33, 4, apart]})
    found = made.in_metres()
    honest(made, found, 0.05)
    single = drive({"distance": [33, 4, apart]}, chunk_size=NUM_FRAMES)
    alone = single.in_metres()
    assert alone.scale.relative_std is None
    assert any("a single chunk" in note for note in alone.scale.notes)
    with pytest.raises(UserError, match="name frames that are further apart"):
        drive({"distance": [20, 21, 1.0]}, Noise(step=0.5)).in_metres()
    with pytest.raises(UserError, match="the scene has frames 0 to 39"):
        drive({"distance": [0, 40, 1.0]}).in_metres()


def test_camera_height(drive: Drive) -> None:
    made = drive({"camera_height": CAMERA_HEIGHT})
    found = made.in_metres()
    honest(made, found, 0.02)
    assert found.scale.num_measurements == NUM_FRAMES
    looking_up = replace(
        made, predictions={n: replace(p, depth=0 * p.depth) for n, p in made.predictions.items()}
    )
    with pytest.raises(UserError, match="0 of the frames looked at see a level ground"):
        looking_up.in_metres()


def test_depth_of_a_sensor(drive: Drive, tmp_path: Path) -> None:
    """Half the resolution, every third frame, much of it missing, named as cameras name them."""
    folder = tmp_path / "sensor"
    folder.mkdir()
    for frame in range(0, NUM_FRAMES, 3):
        depth = road(frame).numpy()[::2, ::2].copy()
        depth[:, ::4] = 0
        cv2.imwrite(str(folder / f"depth_{frame:04d}.png"), encode_uint16(depth, "uint16_mm"))
    made = drive({"depth": str(folder), "depth_codec": "uint16_mm"})
    found = made.in_metres()
    honest(made, found, 0.02)
    assert (found.scale.num_measurements, found.scale.num_given) == (14, 14)
    with pytest.raises(UserError, match="needs alignment.metric.depth_codec"):
        drive({"depth": str(folder)}).in_metres()
    for number, path in enumerate(list(folder.iterdir())):
        path.rename(folder / f"{chr(ord('a') + number)}.png")
    with pytest.raises(UserError, match="holds no depth map named as the images are"):
        drive({"depth": str(folder), "depth_codec": "uint16_mm"}).in_metres()


def test_a_track_of_another_time_is_refused_with_both_times(drive: Drive, tmp_path: Path) -> None:
    path = fixes(tmp_path / "fixes.csv")
    path.write_text(path.read_text().replace("\n1", "\n9991"))
    with pytest.raises(
        UserError, match=r"for 0 frames, 3 are needed \(by time: the images' run from 100.000"
    ):
        drive({"gps": str(path)}).in_metres()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({}, "exactly one of gps, distance, camera_height, depth, poses; none is given"),
        ({"gps": "a", "poses": "b"}, "gps and poses are given"),
        ({"distance": [3, 3, 1.0]}, "not from 3 to itself"),
        ({"distance": [3, 4, 0]}, "alignment.metric.distance"),
        ({"distance": [3, -4, 2.0]}, "at least 0"),
        ({"camera_height": 0}, "a number above 0"),
        ({"depth": "a", "depth_codec": "b"}, "depth_codec goes with depth and is one of"),
    ],
)
def test_settings_name_one_source(metric: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate_mapping(ReconstructionRecipe, {"alignment": {"metric": metric}}, "test")
