"""Commands that an evaluation starts: what of them is shown, and what their failure says."""

from pathlib import Path

import pytest

from scal3r_eval.subprocesses import run_logged, run_quietly, run_shown
from scal3r_train.config import UserError


def test_a_failing_step_says_its_command_and_where_its_message_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match=r"`python -m scal3r_train\.cli --no-such-option` failed; its message is above"
    ):
        run_shown("scal3r_train.cli", "--no-such-option")
    assert "COMMAND" in capfd.readouterr().err
    log = tmp_path / "logs" / "step.log"
    with pytest.raises(UserError, match=rf"failed; its messages are in {log}"):
        run_logged(log, "scal3r_train.cli", "--no-such-option")
    assert "COMMAND" in log.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_quiet_command_tells_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"`scal3r data synth .* num_frames=0` failed: .*num_frames"):
        run_quietly("data", "synth", str(tmp_path / "towns"), "num_frames=0")
    run_quietly("data", "--help")
    assert capfd.readouterr() == ("", "")


def test_a_logged_command_adds_to_its_file(tmp_path: Path) -> None:
    log = tmp_path / "step.log"
    log.write_text("before\n")
    run_logged(log, "scal3r_train.cli", "data", "--help")
    assert log.read_text().startswith("before\n")
    assert "synth" in log.read_text()
