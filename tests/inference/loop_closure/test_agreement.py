"""Loops that vouch for each other."""

import torch

from scal3r_train.inference.loop_closure.agreement import largest_company


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


def test_those_that_too_few_agree_with_drop_out_in_turn() -> None:
    assert largest_company([False] * 5, table(5, [(0, 1), (1, 2), (2, 3), (3, 4)]), NOTHING, 2) == {}
