"""The largest number whose cost is within a budget, when every look at a cost takes a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping

PATIENCE = 2  # looks in a row that may leave more than half, before the middle is taken


def most_that_fit(
    cost: Callable[[int], int],
    budget: int,
    known: Mapping[int, int],
    *,
    at_least: int = 1,
    at_most: int = 10**9,
) -> int:
    """Return the largest n with cost(n) <= budget, or 0 where it is below `at_least`.

    Bisection: the costs of the returned n and of n + 1 have been looked at. Where to look next says a line through
    the two costs nearest to the budget, which for costs that are nearly lines ends after a few looks, else the middle.

    Args:
        cost: of a number >= 1; it must not fall.
        budget: the most it may be.
        known: costs that have been looked at before, at least one.
        at_least: smaller answers are not wanted.
        at_most: where to stop, with nothing beyond it looked at.
    """
    assert at_least >= 1
    if at_least > at_most:
        return 0
    seen = dict(known)

    def fits(number: int) -> bool:
        if number not in seen:
            seen[number] = cost(number)
        return seen[number] <= budget

    if any(number <= at_least and not fits(number) for number in known) or not fits(at_least):
        return 0
    while all(map(fits, seen)):
        largest = max(seen)
        if largest >= at_most:
            return at_most
        beyond = 2 * largest if len(seen) == 1 else max(_on_a_line(seen, budget), largest) + 1
        fits(min(beyond, 4 * largest, at_most))
    high = min(number for number in seen if not fits(number))
    low = max(number for number in seen if number < high)
    impatience = 0
    while high - low > 1:
        width = high - low
        middle = (low + high) // 2 if impatience == PATIENCE else _on_a_line(seen, budget)
        middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if fits(middle) else (low, middle)
        impatience = 0 if 2 * (high - low) <= width else impatience + 1
    return low


def _on_a_line(seen: Mapping[int, int], budget: int) -> int:
    """Return where a line through the two costs nearest to the budget meets it."""
    (first, its_cost), (second, other_cost) = sorted(seen.items(), key=lambda item: abs(item[1] - budget))[:2]
    if its_cost == other_cost:
        return first
    return first + int((budget - its_cost) * (second - first) / (other_cost - its_cost))
