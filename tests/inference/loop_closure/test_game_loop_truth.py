"""Alignment and loop closure on chunk predictions made from the ground truth of a closed circuit of 2.8 km."""

from pathlib import Path

import pytest

from scal3r_train.inference.alignment.seam import chain
from scal3r_train.inference.loop_closure.edges import LoopEdge, close_loops
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from scal3r_train.metrics.trajectory import score_trajectory
from tests.inference.loop_closure.truth_chunks import Drive, drive, read_truth

SETTINGS = LoopEdgeSettings()
FIRST_FRAMES = (20, 60, 100)  # of loops that are there: the circuit is driven 1.1 times
FALSE_PLACES = (300, 900)


@pytest.fixture(scope="module")
def game_loop(shared_dir: Path) -> Drive:
    folder = shared_dir / "data" / "game_loop"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return drive(read_truth(folder))


def true_edges(game_loop: Drive) -> list[LoopEdge]:
    pairs = [(first, game_loop.truth.closest_later_frame(first, 700)) for first in FIRST_FRAMES]
    return [game_loop.loop_edge(*pair, SETTINGS) for pair in pairs]


def ate_percent(game_loop: Drive, world_from_chunk: list) -> float:  # type: ignore[type-arg]
    score = score_trajectory(game_loop.trajectory(world_from_chunk), game_loop.truth.world_from_cam)
    assert score.ate_percent is not None
    return score.ate_percent


def test_loop_closure_brings_the_drive_home(game_loop: Drive) -> None:
    world_from_chunk, report = close_loops(game_loop.seams, true_edges(game_loop), game_loop.ranges, SETTINGS)
    assert [edge.accepted for edge in report.edges] == [True] * 3, [edge.reason for edge in report.edges]
    assert report.converged
    closed = ate_percent(game_loop, world_from_chunk)
    assert closed < 0.2
    assert closed < ate_percent(game_loop, chain(game_loop.seams))


def test_a_false_place_is_rejected_by_the_chain(game_loop: Drive) -> None:
    planted = game_loop.loop_edge(*FALSE_PLACES, SETTINGS, moved=game_loop.onto(*FALSE_PLACES))
    assert planted.accepted, "its own alignments are as good as any: the two windows look the same"
    world_from_chunk, report = close_loops(
        game_loop.seams, [*true_edges(game_loop), planted], game_loop.ranges, SETTINGS
    )
    assert [edge.accepted for edge in report.edges] == [True, True, True, False]
    assert "from the chain of seams" in report.edges[3].reason
    assert ate_percent(game_loop, world_from_chunk) < 0.2


def test_a_false_place_stands_alone(game_loop: Drive) -> None:
    """Without the chain's guard, loops that agree with each other rule it out."""
    settings = SETTINGS.model_copy(update={"max_chain_deviation": 1e9, "max_scale_ratio": 1e9})
    planted = game_loop.loop_edge(*FALSE_PLACES, settings, moved=game_loop.onto(*FALSE_PLACES))
    world_from_chunk, report = close_loops(
        game_loop.seams, [*true_edges(game_loop), planted], game_loop.ranges, settings
    )
    assert [edge.accepted for edge in report.edges] == [True, True, True, False]
    assert "vouch for it" in report.edges[3].reason
    assert ate_percent(game_loop, world_from_chunk) < 0.2
