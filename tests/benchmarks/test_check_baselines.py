"""What counts as worse than a recorded ratio; the benchmarks themselves are run by hand."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import check_baselines
from benchmarks.check_baselines import BENCHMARKS, FOLDER, best_of, better, main, worse
from benchmarks.findings import Findings

RECORDED = Findings(time={"ours / theirs": 0.5, "decode / opencv": 1.0}, bytes={"state / reference": 0.4})


def changed(*, time: dict[str, float] | None = None, bytes_: dict[str, float] | None = None) -> Findings:
    return Findings(RECORDED.time | (time or {}), RECORDED.bytes | (bytes_ or {}))


def test_little_is_not_worse() -> None:
    assert not worse(RECORDED, RECORDED)
    assert not worse(RECORDED, changed(time={"ours / theirs": 0.574}, bytes_={"state / reference": 0.4039}))
    assert not worse(RECORDED, changed(time={"ours / theirs": 0.1}, bytes_={"state / reference": 0.1}))


def test_one_line_for_each_that_is_worse() -> None:
    now = changed(time={"ours / theirs": 0.576, "decode / opencv": 1.2}, bytes_={"state / reference": 0.4041})
    assert worse(RECORDED, now) == [
        "decode / opencv: 1, now 1.2 (+20.0%), allowed +15% (time)",
        "ours / theirs: 0.5, now 0.576 (+15.2%), allowed +15% (time)",
        "state / reference: 0.4, now 0.4041 (+1.0%), allowed +1% (bytes)",
    ]


def test_no_number_is_worse() -> None:
    assert len(worse(RECORDED, changed(time={"ours / theirs": float("nan")}))) == 1


def test_what_came_or_went_is_told() -> None:
    now = Findings({"ours / theirs": 0.5, "new": 2.0}, RECORDED.bytes)
    assert worse(RECORDED, now) == [
        "decode / opencv: recorded, but not measured any more",
        "new: 2, not recorded yet",
    ]


def test_better_is_told_apart() -> None:
    assert better(RECORDED, changed(time={"ours / theirs": 0.4})) == ["ours / theirs: 0.5, now 0.4 (-20.0%)"]
    assert not better(RECORDED, changed(time={"ours / theirs": 0.45}))


def test_of_two_runs_the_undisturbed_times_and_the_largest_bytes() -> None:
    found = best_of(Findings({"a": 1.0, "b": 3.0}, {"c": 1.0}), Findings({"a": 2.0, "b": 2.0}, {"c": 2.0}))
    assert found == Findings({"a": 1.0, "b": 2.0}, {"c": 2.0})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(check_baselines, "FOLDER", tmp_path)
    return tmp_path


def runs_of(monkeypatch: pytest.MonkeyPatch, *found: Findings) -> list[str]:
    """Let benchmarks find this, one after another; return the list of those that were run."""
    names: list[str] = []

    def run(name: str) -> Findings:
        names.append(name)
        return found[len(names) - 1]

    monkeypatch.setattr(check_baselines, "run", run)
    return names


def test_record_then_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_of(monkeypatch, RECORDED, RECORDED)
    assert main(["alignment", "--record", "--note", "quiet"]) == 0
    document = json.loads((folder / "alignment.json").read_text())
    assert document["note"] == "quiet"
    assert "torch" in document["machine"]
    assert Findings.load(folder / "alignment.json") == RECORDED
    runs_of(monkeypatch, RECORDED)
    assert main(["alignment"]) == 0
    assert capsys.readouterr().out.endswith("nothing is worse\n")


def test_a_spoiled_run_is_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_baselines.write(folder / "alignment.json", RECORDED, {})
    slow = changed(time={"ours / theirs": 0.9})
    names = runs_of(monkeypatch, slow, RECORDED)
    assert main(["alignment"]) == 0
    assert len(names) == 2
    runs_of(monkeypatch, slow, slow)
    assert main(["alignment"]) == 1


def test_without_a_baseline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reading"]) == 1
    assert "reading: no reading.json yet" in capsys.readouterr().out


def test_baselines_can_be_read() -> None:
    """A benchmark without one is named by the command."""
    stems = {file.stem for file in FOLDER.glob("*.json")}
    assert stems
    assert stems <= set(BENCHMARKS)
    for file in FOLDER.glob("*.json"):
        found = Findings.load(file)
        assert {**found.time, **found.bytes}, file
        document = json.loads(file.read_text())
        assert document.keys() == {"command", "note", "machine", "date", *asdict(found)}
        assert all(value > 0 for value in [*found.time.values(), *found.bytes.values()])
