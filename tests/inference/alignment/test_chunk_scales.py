"""Chains of seams with the scale that chunks have in common: the pose graph's optimum, loops, streams, scene.json."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scal3r_train.config import load_config
from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.chunk_scales import ChunkScales
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.alignment.seam import Seam, SeamQuality, chain
from scal3r_train.inference.alignment.seam_covariance import seam_covariances
from scal3r_train.inference.alignment.settings import AlignmentSettings, SeamNoiseSettings
from scal3r_train.inference.chunking import Layout, ScheduleSettings
from scal3r_train.inference.loop_closure.edges import LoopEdge, close_loops
from scal3r_train.inference.loop_closure.pose_graph import PoseEdges, optimise_pose_graph
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings, PoseGraphSettings
from scal3r_train.inference.loop_closure.unary_factors import ScaleFactors
from scal3r_train.inference.settings import ReconstructionRecipe

NOISE, ALIGNMENT, NUM = SeamNoiseSettings(), AlignmentSettings(), 12
QUALITY = SeamQuality("points", trusted=True, scale=1.0, num_points=20_000, residual_median=0.05, spread=2.0)
MIDDLE = torch.tensor([1.0, 0.5, 6.0], dtype=torch.float64)


RANGES = [range(4 * chunk, 4 * chunk + 8) for chunk in range(NUM)]
FREE = LoopEdgeSettings(max_chain_deviation=1e3, max_doubt=1e6)


def circle(
    chunk_std: float, seam_std: float, seed: int = 0, residual: float = 0.05
) -> tuple[list[Sim3], list[Seam]]:
    """(truth, seams) of chunks around a circle of radius 20; seams err in scale alone, about the middle of points."""
    random = np.random.default_rng(seed)
    angle = torch.linspace(0, 2 * torch.pi, NUM + 1, dtype=torch.float64)[:-1]
    turn = torch.zeros(NUM, 7, dtype=torch.float64)
    turn[:, 4] = angle
    place = torch.stack([20 * angle.sin(), torch.zeros(NUM).double(), 20 * angle.cos()], dim=1)
    scale = torch.from_numpy(np.exp(chunk_std * random.normal(size=NUM)))
    world = Sim3Batch(scale, sim3_tangent.exp(turn).rotation, place).unstack()
    truth = [world[0].inverse() @ other for other in world]
    seams = []
    for earlier, later in zip(truth, truth[1:], strict=False):
        factor = float(np.exp(seam_std * random.normal()))
        about_middle = Sim3(torch.tensor(factor).double(), torch.eye(3).double(), (1 - factor) * MIDDLE)
        wrong = about_middle @ earlier.inverse() @ later
        centre = tuple(MIDDLE.tolist())
        quality = replace(QUALITY, scale=float(wrong.scale), centre=centre, residual_median=residual)
        seams.append(Seam(wrong, quality))
    return truth, seams


def worst(found: list[Sim3], truth: list[Sim3]) -> float:
    """Largest distance of a chunk's origin from its true place."""
    pairs = zip(found, truth, strict=True)
    return float(torch.stack([(one.translation - other.translation).norm() for one, other in pairs]).max())


def scales_of(seams: list[Seam]) -> ChunkScales:
    scales = ChunkScales.of(seams, ALIGNMENT, NOISE)
    assert scales is not None
    return scales


def recipe_of(*overrides: str) -> ReconstructionRecipe:
    return load_config(ReconstructionRecipe, None, list(overrides))


def test_the_chain_is_the_optimum_of_a_pose_graph() -> None:
    _, seams = circle(0.2, 0.05)
    scales = scales_of(seams)
    assert scales.estimate.chunk_std > 0.05
    covariances = scales.with_variances(seam_covariances(seams, NOISE), scales.estimate.seam_variances)
    edges = PoseEdges(
        torch.arange(NUM - 1),
        torch.arange(1, NUM),
        Sim3Batch.stack([seam.earlier_from_later for seam in seams]),
        torch.linalg.inv(covariances),
        torch.zeros(NUM - 1, dtype=torch.bool),
    )
    information = 1 / torch.from_numpy(scales.estimate.chunk_variances)
    factors = ScaleFactors(torch.arange(NUM), torch.zeros(NUM).double(), information, about_common=True)
    start = Sim3Batch.stack(chain(seams))
    result = optimise_pose_graph(start, edges, PoseGraphSettings(), factors)
    found = Sim3Batch.stack(scales.first_from_chunk)
    torch.testing.assert_close(result.nodes.scale.log(), found.scale.log(), rtol=0, atol=1e-7)
    torch.testing.assert_close(result.nodes.translation, found.translation, rtol=0, atol=1e-5)
    assert worst(scales.first_from_chunk, chain(seams)) > 1


def test_chunks_of_one_scale_stay_on_the_circle() -> None:
    truth, seams = circle(0.0, 0.05)
    scales = scales_of(seams)
    assert worst(scales.first_from_chunk, truth) < 0.3 * worst(chain(seams), truth)
    exact, exact_seams = circle(0.5, 0.0, residual=1e-3)
    assert worst(scales_of(exact_seams).first_from_chunk, exact) < 0.01


@pytest.mark.parametrize("accepted", [False, True])
def test_loops_are_closed_with_the_common_scale(accepted: bool) -> None:
    """A loop of exact poses brings the circle home; the scales that chunks have in common are not lost by it."""
    truth, seams = circle(0.0, 0.05, seed=4)
    scales = scales_of(seams)
    end = truth[0].inverse() @ truth[-1]
    identity = Seam(Sim3.identity(), replace(QUALITY, residual_median=0.001))
    a_seam = Seam(end, replace(QUALITY, scale=float(end.scale), residual_median=0.001))
    loop = LoopEdge(0, NUM - 1, a_seam, identity, accepted=accepted, reason="")
    found, report = close_loops(seams, [loop], RANGES, FREE, scales)
    assert report.num_accepted == accepted
    if not accepted:
        assert found is scales.first_from_chunk
        return
    assert worst(found, truth) < worst(scales.first_from_chunk, truth)
    without, _ = close_loops(seams, [loop], RANGES, FREE)
    assert worst(found, truth) < worst(without, truth)


def test_covariances_take_other_errors_of_scale_and_stay_positive() -> None:
    _, seams = circle(0.1, 0.05)
    scales, covariances = scales_of(seams), seam_covariances(seams, NOISE)
    for variance in (1e-8, 1.0):
        found = scales.with_variances(covariances, np.full(NUM - 1, variance))
        assert found[:, 6, 6].tolist() == pytest.approx([variance] * (NUM - 1), rel=1e-6)
        assert (torch.linalg.eigvalsh(found) > 0).all()
    same = scales.with_variances(covariances, np.square(scales.stated_stds))
    torch.testing.assert_close(same, covariances)


@pytest.mark.parametrize(
    "override", ["alignment.common_scale.enabled=false", "alignment.mode=sim3_unweighted"]
)
def test_seams_keep_their_scale_where_that_is_wanted(override: str) -> None:
    _, seams = circle(0.1, 0.05)
    recipe = recipe_of(override)
    assert ChunkScales.of(seams, recipe.alignment, NOISE) is None
    assert ChunkScales.of([], ALIGNMENT, NOISE) is None


def test_a_stream_never_moves_what_is_placed_and_learns_the_scale() -> None:
    truth, seams = circle(0.0, 0.1)
    recipe, first = recipe_of(), torch.eye(3, 4, dtype=torch.float64)
    schedule = ScheduleSettings(chunk_size=4, overlap=2)

    def layout(num_chunks: int) -> Layout:
        return Layout.plan(2 * num_chunks + 2, schedule, 1)

    placement = Placement.along_seams(layout(1), [], first, 1.0, recipe)
    for number, seam in enumerate(seams):
        before = placement.world_from_chunk
        placement = placement.extended(layout(number + 2), seam, first, recipe)
        assert placement.world_from_chunk[:-1] == before
        assert len(placement.seams) == number + 1
    assert worst(placement.world_from_chunk, truth) < 0.75 * worst(chain(seams), truth)
    off = recipe_of("alignment.common_scale.enabled=false")
    plain = Placement.along_seams(layout(1), [], first, 1.0, off)
    for number, seam in enumerate(seams):
        plain = plain.extended(layout(number + 2), seam, first, off)
    assert worst(plain.world_from_chunk, chain(seams)) == 0


def test_scene_json_has_both_spreads_and_scales_before_and_after() -> None:
    _, seams = circle(0.0, 0.05)
    scales = scales_of(seams)
    found = scales.as_dict(scales.first_from_chunk)
    assert set(found) == {"chunk_std", "seam_std", "noise_factor", "drift_share", "before", "after"}
    assert found["before"] == pytest.approx([float(sim3.scale) for sim3 in chain(seams)])
    assert found["after"][0] == 1
    assert np.std(np.log(found["after"])) < 0.5 * np.std(np.log(found["before"]))
    assert 0.02 < found["seam_std"] < 0.1
