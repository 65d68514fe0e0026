"""The memory study: errors of chunks, intervals, conditions and stitching against closed forms and plain references."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from scal3r_eval.bootstrap import BootstrapSettings, mean_interval, paired_difference
from scal3r_eval.study.chunk_errors import (
    ChunkMotion,
    View,
    chunk_motion,
    chunk_views,
    copied_motion,
    motion_errors,
    prior_motion,
)
from scal3r_eval.study.held_out import mean_distance_m
from scal3r_eval.study.predict import AS_TRAINED, FROZEN, GCS_OFF, Condition, predict_chunks
from scal3r_eval.study.scoring import STITCHING, find_seams, stitch
from scal3r_eval.study.settings import load_study
from scal3r_train.config import UserError
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.data.synthetic.settings import TownSettings
from scal3r_train.data.synthetic.town import render_town
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.chunking import Layout, ScheduleSettings, chunk_ranges
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.losses.targets import build_targets
from scal3r_train.metrics.trajectory import score_trajectory
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.recipe import load_training_recipe
from tests.conftest import PROJECT_ROOT

TURN, SPEED = 0.05, 0.7  # radians and metres a frame
CHUNKING = ScheduleSettings(chunk_size=8, overlap=4)


def circle(num_frames: int, turn: float = TURN, speed: float = SPEED) -> Tensor:
    """world_from_cam [F, 3, 4] of a camera that drives round a circle in its x-z plane, turning right."""
    angle = turn * torch.arange(num_frames, dtype=torch.float64)
    poses = torch.zeros(num_frames, 3, 4, dtype=torch.float64)
    poses[:, 1, 1] = 1
    poses[:, 0, 0] = poses[:, 2, 2] = angle.cos()
    poses[:, 0, 2], poses[:, 2, 0] = angle.sin(), -angle.sin()
    radius = speed / turn
    poses[:, 0, 3], poses[:, 2, 3] = radius * (1 - angle.cos()), radius * angle.sin()
    return poses


def chunks_of(world_from_cam: Tensor) -> tuple[list[range], Tensor]:
    """The chunks of a path and their extrinsics [K, S, 3, 4]."""
    ranges = chunk_ranges(len(world_from_cam), 8, 4)
    extrinsics = invert_extrinsics(world_from_cam)
    return ranges, torch.stack([extrinsics[frames.start : frames.stop] for frames in ranges])


def motion_of(world_from_cam: Tensor, fov: float = 1.0) -> ChunkMotion:
    _, extrinsics = chunks_of(world_from_cam)
    return chunk_motion(extrinsics, torch.full(extrinsics.shape[:2], fov))


def test_motion_of_a_circle_is_its_closed_form() -> None:
    motion = motion_of(circle(20), fov=0.5)
    turned = 7 * TURN
    radius = SPEED / TURN
    chord = 2 * radius * math.sin(TURN / 2)
    assert motion.yaw_deg == pytest.approx(np.full(4, math.degrees(turned)))
    expected = [radius * (1 - math.cos(turned)), 0, radius * math.sin(turned)]
    assert motion.shift == pytest.approx(np.tile(expected, (4, 1)))
    assert motion.length == pytest.approx(np.full(4, 7 * chord))
    assert motion.fov_deg == pytest.approx(np.full(4, math.degrees(0.5)))


def test_views_are_told_by_all_frames_of_a_chunk() -> None:
    is_hidden = np.zeros(20, bool)
    is_hidden[7:17] = True
    assert chunk_views(is_hidden, chunk_ranges(20, 8, 4)) == ["partly", "partly", "hidden", "partly"]
    is_hidden[:10] = False
    assert chunk_views(is_hidden, chunk_ranges(20, 8, 4)) == ["clear", "partly", "partly", "partly"]


def test_chunk_coordinates_do_not_matter_and_the_unit_counts() -> None:
    """Each chunk in a world of its own, in units of three metres: no error; in metres, one of log 3 everywhere."""
    truth = motion_of(circle(24))
    _, extrinsics = chunks_of(circle(24))
    generator = torch.Generator().manual_seed(0)
    moved = []
    for chunk in extrinsics:
        world = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator)).Q
        world = world * torch.linalg.det(world)
        other = torch.cat([world, torch.randn(3, 1, dtype=torch.float64, generator=generator)], -1)
        part = compose_extrinsics(chunk, other.expand_as(chunk))
        moved.append(torch.cat([part[..., :3], part[..., 3:] / 3], -1))
    views: list[View] = ["clear", "hidden", "clear", "partly", "hidden"]
    errors = motion_errors(chunk_motion(torch.stack(moved), torch.ones(5, 8), unit_m=3.0), truth, views)
    assert errors == {key: pytest.approx(0, abs=1e-9) for key in errors}
    assert "hidden_yaw_deg" in errors and "scale_spread_percent" in errors
    unscaled = motion_errors(chunk_motion(torch.stack(moved), torch.ones(5, 8)), truth, views)
    assert unscaled["hidden_length_percent"] == pytest.approx(100 * math.log(3))
    assert unscaled["clear_length_percent"] == pytest.approx(100 * math.log(3))
    assert unscaled["scale_spread_percent"] == pytest.approx(0, abs=1e-9)


def test_errors_of_a_hidden_chunk_have_known_values() -> None:
    truth = motion_of(circle(12))
    slow = motion_of(circle(12, turn=TURN / 2, speed=SPEED / 2), fov=1.1)
    mixed = ChunkMotion(*(np.stack([a[0], b[1]]) for a, b in zip(parts(truth), parts(slow), strict=True)))
    errors = motion_errors(mixed, truth, ["clear", "hidden"])
    assert errors["clear_yaw_deg"] == errors["clear_shift_percent"] == 0
    assert errors["hidden_yaw_deg"] == pytest.approx(math.degrees(3.5 * TURN))
    # chords, not arcs: 2 radius sin(turn / 2), and both circles have one radius
    halved = math.log(math.sin(TURN / 2) / math.sin(TURN / 4))
    assert errors["hidden_length_percent"] == pytest.approx(100 * halved)
    assert errors["hidden_fov_deg"] == pytest.approx(math.degrees(0.1))
    distance = np.linalg.norm(slow.shift[1] - truth.shift[1]) / truth.length[1]
    assert errors["hidden_shift_percent"] == pytest.approx(100 * distance)
    assert errors["scale_spread_percent"] is None, "one clear chunk has no spread"
    assert motion_errors(slow, truth, ["hidden", "hidden"])["clear_yaw_deg"] is None


def parts(motion: ChunkMotion) -> tuple[np.ndarray, ...]:
    return motion.yaw_deg, motion.shift, motion.length, motion.fov_deg


def test_scale_spread_is_the_standard_deviation_of_log_lengths() -> None:
    truth = motion_of(circle(20))
    factors = np.exp([0.0, 0.1, -0.1, 5.0])
    estimate = ChunkMotion(truth.yaw_deg, truth.shift, truth.length * factors, truth.fov_deg)
    errors = motion_errors(estimate, truth, ["clear", "clear", "clear", "hidden"])
    assert errors["scale_spread_percent"] == pytest.approx(100 * math.sqrt(0.02 / 3))


def test_a_camera_that_stands_still_has_no_length_to_err_from() -> None:
    truth = motion_of(circle(12))
    still = replace(truth, length=truth.length * [1.0, 0.0], shift=truth.shift * [[1.0], [0.0]])
    errors = motion_errors(truth, still, ["clear", "hidden"])
    assert (errors["clear_length_percent"], errors["clear_shift_percent"]) == (0.0, 0.0)
    assert errors["hidden_length_percent"] is None and errors["hidden_shift_percent"] is None
    assert errors["hidden_yaw_deg"] == 0 and errors["scale_spread_percent"] is None
    json.dumps(errors, allow_nan=False)


def test_guesses_are_the_median_of_training_and_the_mean_of_what_is_seen() -> None:
    slow, fast = motion_of(circle(12, speed=0.5)), motion_of(circle(12, turn=-0.1, speed=0.9))
    training = ChunkMotion(*(np.concatenate(pair) for pair in zip(parts(slow), parts(fast), strict=True)))
    prior = prior_motion(training, 3, unit_m=2.5)
    assert prior.length == pytest.approx(np.full(3, 2.5 * np.median(training.length)))
    assert prior.yaw_deg == pytest.approx(np.full(3, np.median(training.yaw_deg))), "angles have no unit"
    assert prior.yaw_deg.shape == (3,) and prior.shift.shape == (3, 3)
    copied = copied_motion(training, ["clear", "hidden", "hidden", "clear"])
    assert copied is not None
    assert copied.yaw_deg == pytest.approx(np.full(4, (training.yaw_deg[0] + training.yaw_deg[3]) / 2))
    assert copied_motion(training, ["hidden"] * 4) is None


def test_the_unit_of_a_town_is_that_of_training() -> None:
    """The mean distance that `build_targets` measures over the same chunks."""
    frames = render_town(TownSettings(num_frames=12, height=24, width=36), 1)
    assert frames.depth is not None and frames.extrinsics is not None and frames.intrinsics is not None
    ranges, chunks = chunks_of(invert_extrinsics(frames.extrinsics))
    cut = [slice(part.start, part.stop) for part in ranges]
    relative = [compose_extrinsics(c, invert_extrinsics(c[3]).expand_as(c)) for c in chunks]
    batch = SequenceBatch(
        images=torch.zeros(1, 2, 8, 3, 24, 36, dtype=torch.uint8),
        depth=torch.stack([frames.depth[part] for part in cut])[None],
        extrinsics=torch.stack(relative).float()[None],
        intrinsics=torch.stack([frames.intrinsics[part] for part in cut]).float()[None],
        chunk_mask=torch.ones(1, 2, dtype=torch.bool),
        sequence_ids=("town",),
    )
    scale = build_targets(batch, "sequence", lambda sums: sums).scale
    assert mean_distance_m(frames, ranges) == pytest.approx(float(scale[0, 0]), rel=1e-5)


DRAWS = BootstrapSettings(resamples=4000)


def test_interval_of_one_seed_is_scipys_percentile_bootstrap() -> None:
    sample = np.random.default_rng(3).gamma(2.0, size=40)
    ours = mean_interval(sample[None], DRAWS)
    theirs = scipy.stats.bootstrap(
        (sample,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours is not None
    assert ours.mean == pytest.approx(sample.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_seeds_that_disagree_widen_the_interval() -> None:
    sample = np.random.default_rng(3).normal(size=200)
    alike, apart = np.stack([sample] * 3), sample + np.array([[-1.0], [0.0], [1.0]])
    one, two = mean_interval(alike, DRAWS), mean_interval(apart, DRAWS)
    assert one is not None and two is not None
    assert two.mean == pytest.approx(one.mean)
    assert two.high - two.low > 3 * (one.high - one.low)
    assert two.low <= 0 <= two.high


def test_pairs_cancel_what_they_share() -> None:
    rng = np.random.default_rng(0)
    reference = 10 * rng.random((3, 50))
    method = reference + 0.5 + 0.1 * rng.normal(size=(3, 50))
    difference = paired_difference(method, reference, DRAWS)
    assert difference is not None and not difference.low <= 0 <= difference.high
    assert difference.mean == pytest.approx(0.5, abs=0.05)
    assert difference.high - difference.low < 0.15
    alone = mean_interval(reference, DRAWS)
    assert alone is not None and alone.high - alone.low > 1


def test_sequences_without_a_value_are_left_out() -> None:
    values = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 4.0]])
    interval = mean_interval(values, DRAWS)
    assert interval is not None and (interval.mean, interval.count) == (2.5, 2)
    assert mean_interval(values[:, 1:2], DRAWS) is None


@pytest.fixture(scope="module", params=["sequence", "chunk"])
def model(request: pytest.FixtureRequest) -> Scal3RModel:
    torch.manual_seed(0)
    config = Scal3RConfig(
        image_size=24,
        patch_size=12,
        hidden_size=16,
        num_layers=3,
        num_heads=2,
        mlp_ratio=1.0,
        layer_scale_init=0.5,
        patch_encoder="conv",
        tap_layers=[2, 2, 2, 2],
        memory_layers=[0, 1],
        memory_scope=request.param,
        memory_gate_init=1.0,
        memory_expansion=2,
        depth_head=False,
        point_head=False,
        camera_heads=2,
        camera_layers=1,
        camera_iterations=1,
    )
    return Scal3RModel(config).eval()


IMAGES = torch.rand(5, 4, 3, 24, 36, generator=torch.Generator().manual_seed(1))


def poses(predictions: list[ChunkPrediction]) -> Tensor:
    return torch.stack([prediction.extrinsics for prediction in predictions])


def test_chunks_that_share_a_memory_are_predicted_as_one_sequence(model: Scal3RModel) -> None:
    pairs = poses(predict_chunks(model, IMAGES, Condition(chunks_in_memory=2)))
    by_hand = torch.cat(
        [
            poses(predict_chunks(model, IMAGES[part], AS_TRAINED))
            for part in (slice(2), slice(2, 4), slice(4, 5))
        ]
    )
    torch.testing.assert_close(pairs, by_hand, atol=1e-5, rtol=0)
    together = poses(predict_chunks(model, IMAGES, Condition(chunks_in_memory=64)))
    torch.testing.assert_close(together, poses(predict_chunks(model, IMAGES, AS_TRAINED)))
    difference = (together - pairs).abs().max()
    assert difference < 1e-5 if model.config.memory_scope == "chunk" else difference > 1e-3


def test_gcs_off_is_the_scope_of_one_chunk(model: Scal3RModel) -> None:
    if model.config.memory_scope == "chunk":
        pytest.skip("has no synchronisation to switch off")
    config = Scal3RConfig(**{**model.config.to_dict(), "memory_scope": "chunk"})
    alone = Scal3RModel(config).eval()
    alone.load_state_dict(model.state_dict())
    expected = poses(predict_chunks(alone, IMAGES, AS_TRAINED))
    torch.testing.assert_close(poses(predict_chunks(model, IMAGES, GCS_OFF)), expected, atol=1e-5, rtol=0)


def test_frozen_memories_answer_with_the_weights_they_were_trained_with(
    model: Scal3RModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if model.config.memory_scope == "chunk":
        pytest.skip("frozen weights are asked of the reference only")
    frozen = poses(predict_chunks(model, IMAGES, FROZEN))
    trained = poses(predict_chunks(model, IMAGES, AS_TRAINED))
    assert (frozen - trained).abs().max() > 1e-3
    for unit in model.aggregator.memory_units.values():
        initial = FastWeights(*(weight[None] for weight in (unit.w0, unit.w1, unit.w2)))
        monkeypatch.setattr(unit, "updated_weights", lambda gradient, initial=initial: initial)
    torch.testing.assert_close(frozen, poses(predict_chunks(model, IMAGES, AS_TRAINED)), atol=1e-3, rtol=0)
    monkeypatch.undo()
    torch.testing.assert_close(poses(predict_chunks(model, IMAGES, AS_TRAINED)), trained)


def perfect(world_from_cam: Tensor, scales: list[float]) -> list[ChunkPrediction]:
    """True cameras relative to each chunk's middle frame, in units of the chunk's own."""
    ranges, extrinsics = chunks_of(world_from_cam)
    found = []
    for chunk, scale in zip(extrinsics, scales, strict=True):
        local = compose_extrinsics(chunk, invert_extrinsics(chunk[3]).expand_as(chunk))
        local = torch.cat([local[..., :3], scale * local[..., 3:]], -1)
        nothing = torch.zeros(8, 1, 1)
        found.append(
            ChunkPrediction(local, torch.eye(3, dtype=torch.float64).repeat(8, 1, 1), nothing, nothing + 1)
        )
    assert len(ranges) == len(scales)
    return found


def recipe_of(way: str) -> ReconstructionRecipe:
    alignment = AlignmentSettings.model_validate(STITCHING[way])
    return ReconstructionRecipe(schedule=CHUNKING, alignment=alignment)


def test_perfect_cameras_are_stitched_without_error_and_rigid_seams_keep_scales() -> None:
    path = circle(28)
    world = Sim3(torch.tensor(2.0).double(), torch.eye(3).double(), torch.tensor([1.0, 2, 3]).double())
    truth = world.apply_to_world_from_cam(path)
    equal, unequal = [1.0] * 6, [1.0, 2.0, 0.5, 1.0, 3.0, 0.7]
    for way, scales, most in (
        ("ate", equal, 1e-6),
        ("ate_sim3", equal, 1e-6),
        ("ate_se3", equal, 1e-6),
        ("ate", unequal, 1.0),  # cameras state an error that these do not have
        ("ate_sim3", unequal, 1e-6),
        ("ate_se3", unequal, None),
    ):
        predictions, recipe = perfect(path, scales), recipe_of(way)
        layout = Layout.plan(len(truth), recipe.schedule, 1)
        stitched = stitch(predictions, layout, find_seams(predictions, layout, recipe), recipe)
        assert stitched.shape == truth.shape
        percent = score_trajectory(stitched, truth, "sim3").ate_percent
        assert percent is not None
        assert percent > 3 if most is None else percent < most, (way, percent)


@pytest.mark.parametrize("name", ["memory", "smoke", "widths", "circuits", "circuits_smoke"])
def test_study_recipes_are_valid_and_open_with_their_command(name: str) -> None:
    path = PROJECT_ROOT / "recipes" / "study" / f"{name}.yaml"
    recipe = load_study(path, ["jobs=1"])
    assert recipe.jobs == 1
    assert f"python -m scal3r_eval.study recipes/study/{name}.yaml" in path.read_text(encoding="utf-8")
    assert all((PROJECT_ROOT / training).is_file() for training in recipe.variants.values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("no_gcs", {"memory_scope": "chunk"}),
        ("no_gcm", {"memory_layers": []}),
        ("width_1", {"memory_expansion": 1}),
        ("width_4", {"memory_expansion": 4}),
        ("circuits_no_gcs", {"memory_scope": "chunk"}),
        ("circuits_no_gcm", {"memory_layers": []}),
    ],
)
def test_variants_are_equal_but_for_the_memory(name: str, change: dict[str, Any]) -> None:
    full, other = (
        load_training_recipe(PROJECT_ROOT / "recipes" / "study" / f"{one}.yaml").model_dump(mode="json")
        for one in ("circuits_full" if name.startswith("circuits") else "full", name)
    )
    network = full["model"]["network"]
    assert other["model"]["network"] == network | change != network
    same = {"name": full["name"], "output_dir": full["output_dir"], "model": full["model"]}
    assert other | same == full


@pytest.mark.parametrize("name", ["full", "circuits_full"])
def test_training_sees_at_most_eight_chunks(name: str) -> None:
    curriculum = load_training_recipe(PROJECT_ROOT / "recipes" / "study" / f"{name}.yaml").curriculum
    assert max(curriculum.chunks_per_rank) * max(curriculum.group_size) == 8


def test_the_study_is_as_large_as_it_says() -> None:
    recipe = load_study(PROJECT_ROOT / "recipes" / "study" / "memory.yaml", [])
    assert sum(part.sequences for part in recipe.held_out) >= 64
    assert (recipe.lengths[0], recipe.lengths[-1], len(recipe.seeds)) == (4, 64, 3)
    longest = recipe.held_out_towns(64, 8, 4)
    assert (longest.num_frames, longest.num_sequences, longest.blackouts) == (260, 8, 8)
    assert longest.seed != recipe.towns.seed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variants={no_gcm: a.yaml}", "variants needs one named full"),
        ("held_out=[{chunks: 4, sequences: 1}, {chunks: 4, sequences: 2}]", "each number of chunks once"),
        ("towns.seed=404", "that of held-out towns"),
        ("nonsense=1", "unknown key"),
    ],
)
def test_a_study_that_cannot_be_is_refused(override: str, message: str) -> None:
    path = PROJECT_ROOT / "recipes" / "study" / "memory.yaml"
    with pytest.raises(UserError, match=message):
        load_study(path, [override])


def test_other_recipes_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no study"):
        load_study(PROJECT_ROOT / "recipes" / "demo.yaml", [])
