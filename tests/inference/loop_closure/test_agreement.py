"""Loops that vouch for each other."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.seam import Seam, SeamQuality
from scal3r_train.inference.loop_closure import edges
from scal3r_train.inference.loop_closure.agreement import Discrepancy, largest_company
from scal3r_train.inference.loop_closure.edges import LoopEdge, LoopEdgeSettings


def table(num: int, pairs: list[tuple[int, int]]) -> torch.Tensor:
    matrix = torch.zeros(num, num, dtype=torch.bool)
    for one, two in pairs:
        matrix[one, two] = matrix[two, one] = True
    return matrix


NOTHING = table(5, [])
THREE_AGREE, TWO_AGAINST = (
    table(5, [(0, 1), (0, 2), (1, 2), (3, 4)]),
    [(i, j) for i in range(3) for j in (3, 4)],
)


def test_a_loop_alone_is_not_believed() -> None:
    assert largest_company([False], table(1, []), table(1, []), 2) == {}


def test_what_the_chain_vouches_for_is() -> None:
    assert largest_company([True, False], table(2, []), table(2, []), 2) == {0: 0}


def test_the_larger_company_wins() -> None:
    assert largest_company([False] * 5, THREE_AGREE, table(5, TWO_AGAINST), 1) == {0: 2, 1: 2, 2: 2}


def test_two_equal_companies_are_both_doubted() -> None:
    agree, against = table(4, [(0, 1), (2, 3)]), table(4, [(i, j) for i in (0, 1) for j in (2, 3)])
    assert largest_company([False] * 4, agree, against, 1) == {}


def test_companies_that_overlap_keep_what_they_share() -> None:
    agree = table(5, [(i, j) for i in range(5) for j in range(i) if (i, j) != (4, 3)])
    assert largest_company([False] * 5, agree, table(5, [(3, 4)]), 2) == {0: 2, 1: 2, 2: 2}


def test_a_sure_loop_rules_out_those_that_contradict_it() -> None:
    sure = [False, False, False, True, False]
    assert largest_company(sure, THREE_AGREE, table(5, TWO_AGAINST), 1) == {3: 1, 4: 1}


def test_contradictions_without_end_are_doubted_in_finite_time() -> None:
    """Of 60 loops in 30 pairs that contradict each other there are 2^30 sets; what the chain vouches for stays."""
    against = table(61, [(2 * k, 2 * k + 1) for k in range(30)])
    sure = [False] * 60 + [True]
    assert largest_company(sure, ~against, against, 2) == {60: 0}


def test_those_that_too_few_agree_with_drop_out_in_turn() -> None:
    assert largest_company([False] * 5, table(5, [(0, 1), (1, 2), (2, 3), (3, 4)]), NOTHING, 2) == {}


def test_loops_say_why_they_are_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two companies of three that contradict each other, and one that nobody knows."""
    side = {0: "left", 1: "left", 2: "left", 3: "right", 4: "right", 5: "right", 6: "nowhere"}

    def trip(one: SimpleNamespace, two: SimpleNamespace, chain: None) -> Discrepancy:
        sides = {side[one.a], side[two.a]}
        return Discrepancy(0.0 if len(sides) == 1 else 99.0, 9.0 if "nowhere" in sides else 0.0)

    monkeypatch.setattr(edges, "round_trip", trip)
    seam = Seam(Sim3.identity(), SeamQuality("points", True, 1, 9, 0, 0.1, 1))
    loop = LoopEdge(0, 9, seam, seam, accepted=True, reason="", chain_doubt=8.0)
    loops = [replace(loop, a=number) for number in side]
    settings = LoopEdgeSettings(min_agreeing=2)
    judged = edges._in_company(loops, None, [torch.eye(7)] * 7, settings)
    assert not any(edge.accepted for edge in judged)
    assert [edge.num_agreeing for edge in judged] == [0] * 7, "none is believed"
    assert all("as much support" in edge.reason for edge in judged[:6])
    assert "fewer than 2 other loops vouch for it" in judged[6].reason
