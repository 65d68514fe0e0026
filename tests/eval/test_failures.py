"""Failed sequences get the worst valid score, and are listed."""

import pytest

from scal3r_eval.summary import Outcome, count_failures

OUTCOMES: dict[str, dict[str, Outcome]] = {
    "ours": {"a": 1.0, "b": "out of memory", "c": 3.0},
    "other": {"a": 2.0, "b": 7.0, "c": float("nan")},
    "broken": {"a": "no poses", "b": "no poses", "c": "no poses"},
}


def test_a_failure_gets_the_worst_of_all_methods() -> None:
    counted = count_failures(OUTCOMES)
    assert counted["ours"].values == {"a": 1.0, "b": 7.0, "c": 3.0}
    assert counted["ours"].failures == {"b": "out of memory"}
    assert counted["ours"].mean == pytest.approx(11 / 3)
    assert counted["ours"].mean_of_valid == pytest.approx(2)
    assert counted["other"].values == {"a": 2.0, "b": 7.0, "c": 7.0}
    assert list(counted["other"].failures) == ["c"]
    assert counted["broken"].values == {"a": 7.0, "b": 7.0, "c": 7.0}
    assert (counted["broken"].mean, counted["broken"].mean_of_valid, counted["broken"].fill) == (
        7.0,
        None,
        7.0,
    )


def test_the_worst_of_a_method_alone() -> None:
    counted = count_failures(OUTCOMES, worst_of="per_method")
    assert counted["ours"].values["b"] == 3.0
    assert counted["other"].values["c"] == 7.0
    assert counted["broken"].fill == 7.0, "nothing of its own: the worst of all"


def test_where_more_is_better_the_worst_is_the_smallest() -> None:
    counted = count_failures({"x": {"a": 0.9, "b": "f"}, "y": {"a": 0.2, "b": 0.4}}, better="higher")
    assert counted["x"].values["b"] == 0.2


def test_without_any_valid_score_there_is_no_number() -> None:
    counted = count_failures({"x": {"a": "f", "b": float("inf")}})
    assert counted["x"].values == {"a": None, "b": None}
    assert (counted["x"].mean, counted["x"].mean_of_valid, counted["x"].fill) == (None, None, None)
    assert counted["x"].failures == {"a": "f", "b": "the score is inf"}


def test_a_failure_never_helps() -> None:
    """Filling a gap cannot make a method better than its true score would, if that is no worse than the worst."""
    complete = {"x": {"a": 1.0, "b": 5.0, "c": 2.0}, "y": {"a": 3.0, "b": 9.0, "c": 4.0}}
    for name in complete["x"]:
        gap: dict[str, dict[str, Outcome]] = {
            "x": {**complete["x"], name: "failed"},
            "y": dict(complete["y"]),
        }
        mean = count_failures(gap)["x"].mean
        assert mean is not None
        assert mean >= sum(complete["x"].values()) / 3
