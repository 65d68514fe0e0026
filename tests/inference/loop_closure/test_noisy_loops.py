"""Loops on noisy models: true ones are believed, those of a network that is fooled are not.

A drive through parallel streets that all look alike, cut to a few pixels. `benchmarks/loop_curves.py`
has more noise, more kinds and real sequences.
"""

from __future__ import annotations

import pytest

from scal3r_train.inference.loop_closure.edges import close_loops
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from tests.inference.loop_closure.loop_scenes import Scene, fooled_predictions
from tests.inference.loop_closure.street_grid import street_grid
from tests.inference.loop_closure.truth_chunks import Drive, Errors

SETTINGS = LoopEdgeSettings()
STREETS = Scene(
    "streets", lambda: street_grid(step=4.0, image_hw=(12, 20)), 20, 10, 4, 30, 4, 30, 8, 30, 13.6
)
CASES = {
    "5 % noise": Errors(depth=0.05, least_scale=0.3, largest_scale=3),
    "20 % outliers": Errors(depth=0.02, outliers=0.2, least_scale=0.3, largest_scale=3),
}


@pytest.fixture(scope="module", params=list(CASES))
def whole(request: pytest.FixtureRequest) -> Drive:
    return STREETS.drive(CASES[request.param])


def test_true_loops_are_believed(whole: Drive) -> None:
    edges = [whole.loop_edge(*pair, SETTINGS) for pair in STREETS.true_pairs]
    assert len(edges) >= 3
    _, report = close_loops(whole.seams, edges, whole.ranges, SETTINGS)
    assert all(edge.accepted for edge in report.edges), [edge.reason for edge in report.edges]


def test_no_kind_of_fooled_network_is(whole: Drive) -> None:
    fooled = fooled_predictions(STREETS, whole)
    kinds = {"street like it", "opposite way", "along the street", "wrong scale", "somewhere else"}
    assert {one.kind for one in fooled} == kinds
    edges = [whole.loop_edge(*one.pair, SETTINGS, moved=one.moved, factor=one.factor) for one in fooled]
    assert all(edge.accepted for edge in edges), "each end fits its chunk as well as any"
    true_edges = [whole.loop_edge(*pair, SETTINGS) for pair in STREETS.true_pairs]
    _, report = close_loops(whole.seams, [*true_edges, *edges], whole.ranges, SETTINGS)
    said = [edge.accepted for edge in report.edges]
    assert said == [True] * len(true_edges) + [False] * len(edges), [edge.reason for edge in report.edges]
    for one, edge in zip(fooled, edges, strict=True):
        assert close_loops(whole.seams, [edge], whole.ranges, SETTINGS)[1].num_accepted == 0, one.kind
