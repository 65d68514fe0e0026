"""The largest number whose cost fits: for any cost that does not fall, with few looks where it is nearly a line."""

from collections.abc import Callable

import pytest

from scal3r_train.planning.most_that_fit import most_that_fit

COSTS: dict[str, Callable[[int], int]] = {
    "line": lambda n: 100 + 7 * n,
    "kink": lambda n: max(2800 + 17 * n, 2000 + 53 * n),
    "steps": lambda n: 1000 + 40 * (n // 8),
    "curved": lambda n: 50 + n * n,
    "jump": lambda n: n if n < 30 else 10**9 + n,
}


@pytest.mark.parametrize("known", [{1}, {24}, {3, 60}, {500}])
@pytest.mark.parametrize("name", COSTS)
def test_it_is_the_largest_and_both_sides_were_looked_at(name: str, known: set[int]) -> None:
    cost = COSTS[name]
    asked: set[int] = set()

    def ask(number: int) -> int:
        assert number not in asked, "a look takes a second"
        asked.add(number)
        return cost(number)

    for budget in (0, cost(1), 1017, 2900, 3511, 6000):
        asked = set()
        most = most_that_fit(ask, budget, {number: cost(number) for number in known})
        assert most == max((n for n in range(1, 2000) if cost(n) <= budget), default=0)
        looked = asked | known
        assert most == 0 or most in looked
        assert most + 1 in looked or any(cost(number) > budget for number in looked if number <= most + 1)
        assert len(asked) <= 25


def test_a_line_takes_few_looks() -> None:
    asked = []

    def ask(number: int) -> int:
        asked.append(number)
        return 20_000 + 471 * number + number % 8

    most_that_fit(ask, 90_000, {24: ask(24)})
    assert len(asked) <= 5


def test_fewer_than_wanted_is_nothing_and_takes_one_look() -> None:
    asked = []

    def ask(number: int) -> int:
        asked.append(number)
        return number

    assert most_that_fit(ask, 50, {10: 10}, at_least=51) == 0
    assert asked == [51]
    assert most_that_fit(ask, 50, {10: 10, 51: 51}, at_least=60) == 0
    assert asked == [51]
    assert most_that_fit(ask, 50, {10: 10}, at_least=50) == 50
