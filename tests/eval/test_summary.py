"""Means and intervals over sequences and runs, with failures filled in."""

import numpy as np
import pytest

from scal3r_eval.results import SequenceScores
from scal3r_eval.summary import mean_over_runs, summarise


def scores(
    method: str, run: int, sequence: str, value: float | None, failure: str | None = None
) -> SequenceScores:
    return SequenceScores(
        identity={},
        method=method,
        run=run,
        sequence=sequence,
        num_frames=9,
        num_poses=9,
        metrics={} if failure else {"ate_rmse_m": 1.0, "f1": value},
        failure=failure,
    )


def table(**methods: list[list[float | None | str]]) -> dict[str, dict[str, tuple[SequenceScores, ...]]]:
    """Methods by name: one list a sequence, one f1 a run; text is the reason of a failure."""
    return {
        method: {
            f"s{number}": tuple(
                scores(method, run, f"s{number}", None, value)
                if isinstance(value, str)
                else scores(method, run, f"s{number}", value)
                for run, value in enumerate(row)
            )
            for number, row in enumerate(rows)
        }
        for method, rows in methods.items()
    }


def asked_everywhere(*methods: str) -> dict[str, dict[str, set[str]]]:
    return {method: {f"s{number}": {"ate_rmse_m", "f1"} for number in range(4)} for method in methods}


def test_runs_and_sequences_are_averaged() -> None:
    summary = summarise(table(a=[[0.1, 0.3], [0.5, 0.7]]))["a"]["f1"]
    assert summary.mean == pytest.approx(0.4)
    assert (summary.num_sequences, summary.num_failures) == (2, 0)
    assert mean_over_runs(table(a=[[0.1, 0.3]])["a"]["s0"], "f1") == pytest.approx(0.2)


def test_interval_of_many_independent_sequences_is_that_of_the_central_limit() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    summary = summarise(table(a=[[float(value)] for value in values]))["a"]["f1"]
    half = 1.96 * values.std() / 20
    assert summary.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert summary.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_runs_count_as_one_more_source_of_chance() -> None:
    """Two runs that differ by 1 everywhere: the mean of two draws is 0, 0.5 or 1."""
    summary = summarise(table(a=[[0.0, 1.0]] * 5))["a"]["f1"]
    assert (summary.low, summary.mean, summary.high) == (0.0, 0.5, 1.0)


def test_one_number_has_no_interval() -> None:
    summary = summarise(table(a=[[0.5]]))["a"]["f1"]
    assert (summary.low, summary.high) == (None, None)


def test_a_failed_sequence_gets_the_worst_of_all_methods() -> None:
    found = summarise(table(a=[[0.9], ["it broke"]], b=[[0.4], [0.6]]))
    assert found["a"]["f1"].mean == pytest.approx((0.9 + 0.4) / 2)
    assert found["a"]["f1"].mean_of_valid == pytest.approx(0.9)
    assert (found["a"]["f1"].num_failures, found["b"]["f1"].num_failures) == (1, 0)


def test_a_measure_that_a_method_does_not_have_is_left_out() -> None:
    found = summarise(table(a=[[0.9], [0.8]], baseline=[[None], [None]]))
    assert "f1" not in found["baseline"] and found["baseline"]["ate_rmse_m"].mean == 1
    assert found["a"]["f1"].num_failures == 0


def test_a_measure_lacking_on_one_sequence_alone_is_a_failure_there() -> None:
    found = summarise(table(a=[[0.9], [None]], b=[[0.5], [0.6]]))
    assert found["a"]["f1"].mean == pytest.approx(0.7)
    assert found["a"]["f1"].num_failures == 1


def test_sequences_that_nobody_has_it_on_do_not_count() -> None:
    found = summarise(table(a=[[0.9], [None]], b=[[0.5], [None]]))
    assert (found["a"]["f1"].num_sequences, found["a"]["f1"].num_failures) == (1, 0)


def test_a_run_that_always_fails_stays_in_the_means_of_points() -> None:
    """Two seeds of three have points; the third failed everywhere, and gets the worst of all methods like any other."""
    found = summarise(table(a=[[0.9, 0.8, "no"], [0.9, 0.8, "no"]], b=[[0.5], [0.6]]))["a"]
    assert found["f1"].mean == pytest.approx((0.9 + 0.8 + 0.5) / 3)
    assert found["f1"].mean_of_valid == pytest.approx(0.85)
    assert found["f1"].num_failures == found["ate_rmse_m"].num_failures == 2


def test_a_method_asked_for_points_that_always_fails_is_the_worst() -> None:
    scored = table(a=[["no"], ["no"]], b=[[0.5], [0.6]], baseline=[[None], [None]])
    assert "f1" not in summarise(scored)["a"], "nobody said that it has points"
    found = summarise(scored, asked_everywhere("a", "b"))
    assert (found["a"]["f1"].mean, found["a"]["f1"].mean_of_valid) == (0.5, None)
    assert (found["a"]["f1"].num_failures, found["b"]["f1"].mean) == (2, pytest.approx(0.55))
    assert "f1" not in found["baseline"]
    nobody = summarise(table(a=[["no"]], baseline=[[None]]), asked_everywhere("a"))
    assert "f1" not in nobody["a"], "there is no worst valid score"


def test_a_method_that_always_fails_is_the_worst() -> None:
    found = summarise(table(a=[["no"], ["no"]], b=[[0.5], [0.6]]), asked_everywhere("a", "b"))
    assert found["a"]["ate_rmse_m"].mean == found["b"]["ate_rmse_m"].mean
    assert found["a"]["ate_rmse_m"].mean_of_valid is None
    assert found["a"]["ate_rmse_m"].num_failures == 2


def test_what_a_method_should_have_counts_also_when_nobody_else_has_it() -> None:
    """Ours beside a baseline without points: one sequence failed, on one its points could not be scored."""
    scored = table(ours=[[0.9], [0.7], ["broke"], [None]], baseline=[[None]] * 4)
    broken = scored["ours"]["s3"][0]
    scored["ours"]["s3"] = (broken.model_copy(update={"partial_failures": {"points": "a damaged file"}}),)
    f1 = summarise(scored, asked_everywhere("ours"))["ours"]["f1"]
    assert (f1.num_sequences, f1.num_failures) == (4, 2)
    assert f1.mean == pytest.approx((0.9 + 0.7 + 0.7 + 0.7) / 4)
    f1 = summarise(scored)["ours"]["f1"]
    assert (f1.num_sequences, f1.num_failures) == (3, 1), "points that could not be scored count in any case"
    alone = summarise(table(ours=[[0.9], ["broke"]]), asked_everywhere("ours"))["ours"]
    assert (alone["ate_rmse_m"].num_sequences, alone["ate_rmse_m"].num_failures) == (2, 1)
