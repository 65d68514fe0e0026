"""Two studies side by side: which numbers agree."""

import json
from pathlib import Path
from typing import Any

import pytest

from scal3r_eval.study.compare import TABLES, compare, main, pairs
from scal3r_train.config import UserError


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "count": 3}


def results(**rows: Any) -> dict[str, Any]:
    return {"results": {table: {} for table in TABLES} | {"means": {"full": rows}}}


def test_numbers_are_sorted_by_means_and_intervals() -> None:
    one = results(
        same=interval(1, 0, 2), near=interval(1, 0, 2), far=interval(1, 0, 2), alone=interval(1, 0, 2)
    )
    # The second contains the first's mean but not the reverse; the third has nothing in common with the first.
    other = results(same=interval(1.5, 0.5, 2.5), near=interval(3, 0.5, 4), far=interval(5, 4, 6), gone=None)
    found = {pair.name: pair for pair in pairs(one["results"]["means"], other["results"]["means"])}
    assert set(found) == {"full/same", "full/near", "full/far"}
    assert [pair.is_reproduced for pair in found.values()] == [True, False, False]
    assert [pair.overlaps for pair in found.values()] == [True, True, False]
    lines = compare(one, other).splitlines()
    assert lines[0] == (
        "means: 3 numbers; in 1 each mean lies in the other's interval, in 2 the intervals overlap"
    )
    assert lines[1] == "  means/full/near: 1.00 [0.00, 2.00] and 3.00 [0.50, 4.00]"
    assert len(lines) == len(TABLES) + 2


def test_files_that_are_no_results_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(results()))
    bad.write_text('{"results": {"means": {}}}')
    with pytest.raises(UserError, match=r"bad\.json is no results\.json of a study: it lacks differences"):
        main([str(good), str(bad)])
    with pytest.raises(UserError, match="give two files"):
        main([str(good)])
    assert main([str(good), str(good)]) == 0
    assert capsys.readouterr().out.count("0 numbers") == len(TABLES)
