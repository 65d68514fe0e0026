"""The first cases of benchmarks/fault_drill.py; all of them: python -m benchmarks.fault_drill"""

import os

import pytest

from benchmarks import fault_drill


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["other_recipe", "deleted", "unreachable", "alone", "absent", "port_taken", "small_shm", "reader_bug"],
)
def test_drill(fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if fault == "small_shm" and os.geteuid() != 0:
        pytest.skip("only root may mount a small /dev/shm")
    cases = [case for case in fault_drill.CASES if case.fault == fault]
    monkeypatch.setattr(fault_drill, "CASES", cases[:1])
    assert fault_drill.main(["--logs"]) == 0, capsys.readouterr().out
