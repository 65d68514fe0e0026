"""What goes wrong on one rank ends, or is skipped by, all of them; nobody waits."""

import re
from pathlib import Path

import pytest

from scal3r_train.config import UserError
from scal3r_train.data.dataset import FailedBatch, UnreadableWindow
from scal3r_train.training.step import checked_batch
from tests.conftest import Torchrun
from tests.training import tiny
from tests.training.conftest import Ranks


def test_a_nan_on_one_rank_is_skipped_by_both(ranks: Ranks) -> None:
    notes = [rank["poisoned_once"] for rank in ranks.notes]
    for steps in notes:
        assert [step["is_applied"] for step in steps] == [True, False, True, True, True]
        assert [step["has_moved"] for step in steps] == [
            False,
            False,
            True,
            True,
            True,
        ]  # warm-up starts at 0
    assert [step["lr"] for step in notes[0]] == [step["lr"] for step in notes[1]]
    assert notes[0][1]["lr"] != notes[0][0]["lr"], "the schedule goes on"
    line = tiny.steps(ranks.folder / "poisoned_once")[1]
    assert line["loss"] is None and line["camera_rotation"] is None
    assert line["depth_regression"] is not None
    assert all(step["loss"] is not None for step in tiny.steps(ranks.folder / "poisoned_once")[2:])


def test_the_sequence_behind_the_nan_is_named(ranks: Ranks) -> None:
    mine, poisoned = (rank["poisoned_once"][1] for rank in ranks.notes)
    assert mine["sequences"] != poisoned["sequences"]
    assert mine["culprits"] == poisoned["culprits"] == poisoned["sequences"]


def test_too_many_skipped_steps_end_the_run_on_both(ranks: Ranks) -> None:
    last = ranks.notes[1]["poisoned_steps"][-1]["sequences"]
    for rank in ranks.notes:
        assert len(rank["poisoned_steps"]) == 5
        assert rank["poisoned"].startswith("stopped after 5 skipped steps in a row")
        assert rank["poisoned"].endswith(f"last: {last[0]}")


def test_a_truncated_image_ends_both_with_the_same_line(ranks: Ranks) -> None:
    lines = {rank["truncated"] for rank in ranks.notes}
    assert len(lines) == 1
    assert "broken.png cannot be read" in lines.pop()


def test_an_output_folder_that_only_one_rank_writes_ends_both(ranks: Ranks) -> None:
    lines = {rank["unwritable"] for rank in ranks.notes}
    assert len(lines) == 1
    assert "cannot be written" in lines.pop()


def test_an_output_folder_of_another_owner_ends_both_with_the_same_line(ranks: Ranks) -> None:
    (held, line), other = (rank["owned"] for rank in ranks.notes)
    assert held == [".json"] and other == [held, line]
    assert re.fullmatch(
        "run is being written by process .* on elsewhere, .* delete .*/owned/.lock/0.json", line
    )


@pytest.mark.parametrize("where", ["other_rank", "main_rank"])
def test_a_thread_that_cannot_write_ends_both_with_the_same_line(ranks: Ranks, where: str) -> None:
    """Found while the next step is made; what was being written is gone, the checkpoint before it is there."""
    lines = {rank[f"full_disk_of_{where}"] for rank in ranks.notes}
    assert len(lines) == 1
    assert re.search("step_00000004 cannot be written: .*No space left on device", lines.pop())
    folder = ranks.folder / f"full_disk_of_{where}"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000002"]
    assert not (folder / "model").exists()


def test_the_command_ends_with_the_cause(towns: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    """The same through torchrun, as a user starts it: only the second rank meets the broken image."""
    index = tiny.write_broken_town(towns, tmp_path)
    changes = {
        "data.max_skipped_frames": 0.0,
        "curriculum.group_size": {"2": 1.0},
        "curriculum.chunks_per_rank": {"1": 1.0},
        "curriculum.reverse_probability": 0.0,
        "validation.every": 0,
    }
    path = tmp_path / "recipe.json"  # JSON is YAML
    path.write_text(tiny.recipe(index, tmp_path / "run", changes).model_dump_json())
    done = torchrun("-m", "scal3r_train.train", path)
    assert done.returncode != 0
    causes = [line for line in done.stderr.splitlines() if line.startswith("scal3r: error:")]
    assert causes
    assert all("broken.png cannot be read: image file is truncated" in line for line in causes)
    assert not (tmp_path / "run" / "model").exists()


def test_a_failed_batch_is_a_user_error() -> None:
    with pytest.raises(UserError, match="^cause$"):
        checked_batch(FailedBatch((UnreadableWindow(0, "sequence", "cause"),)))


def test_what_a_run_prints(towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line per logged step and validation and the table of the end; no bars of libraries, no warnings."""
    tiny.train(tiny.recipe(towns, tmp_path, {"model.activation_checkpointing": "blocks"}))
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line.split() for line in err.splitlines()]
    logged = [["step", f"{k}/5", "loss"] for k in range(1, 6)]
    for step in (0, 3, 5):
        logged.insert(step + (step > 0) + (step > 3), ["step", f"{step}/5", "validation:"])
    assert [line[:3] for line in lines[:8]] == logged
    names = ["done", "best", "checkpoint", "model", "metrics", "next", "scal3r"]
    assert [line[0] for line in lines[8:]] == names


def test_skipped_steps_are_reported_and_written_as_null(
    towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone as well; also when it is the very first step, before the optimizer ever ran.

    Here the loss is finite and its gradient is not: nobody in particular is to blame.
    """
    from scal3r_train.training import step

    original, calls = step.forward_loss, []

    def poisoned(*arguments):
        calls.append(1)
        result = original(*arguments)
        if len(calls) == 1:
            result.loss.register_hook(lambda gradient: gradient * float("nan"))
        return result

    monkeypatch.setattr(step, "forward_loss", poisoned)
    tiny.train(tiny.recipe(towns, tmp_path, {"validation.every": 0, "optim.num_steps": 2}))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("step 1 ")]
    assert len(lines) == 1
    assert lines[0].startswith("step 1 skipped: loss or gradient not finite in town_001_")
    assert [line["grad_norm"] is None for line in tiny.steps(tmp_path)] == [True, False]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
