"""The metrics of a run: their names never change, what they add up to, and that measuring changes nothing."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from scal3r_train.metrics.logged import TRAINING, described_metric
from scal3r_train.training.validation import HIGHER_IS_BETTER, GuardSettings
from tests.training import tiny
from tests.training.conftest import Ranks
from tests.training.test_resume import assert_equal_states, newest

OneProcess = Callable[..., Path]

# A ratchet. Dashboards and scripts read these names: add, never rename (metrics/logged.py describes each).
LOSSES = """
    camera_translation camera_rotation camera_fov depth_confidence depth_regression
    depth_gradient_1 depth_gradient_2 depth_gradient_4 depth_gradient_8
    """.split()
OTHER_LOSSES = """
    points_confidence points_regression points_normal_1 points_normal_2 points_normal_4
    motion_turn motion_translation motion_fov motion_log_depth
""".split()
STEP_KEYS = {
    *LOSSES,
    *(f"weighted/{loss}" for loss in LOSSES),
    *"""
    step loss grad_norm seconds skipped_steps data/fallbacks data/skipped_frames data/frames/towns
    grad_norm/memory grad_norm/backbone
    train/rotation_deg train/direction_deg train/auc_5 train/auc_30 train/abs_rel
    amu/0/gradient_norm amu/0/update_w0 amu/0/update_w1 amu/0/update_w2 amu/0/gate
    amu/1/gradient_norm amu/1/update_w0 amu/1/update_w1 amu/1/update_w2 amu/1/gate
    time/data time/forward time/sync time/backward time/optimizer time/other
    throughput/frames_per_s throughput/tokens_per_s
    memory/resident_gib
    plan/groups plan/largest_group plan/sequences plan/chunks plan/frames plan/tokens
    lr/backbone_decayed lr/backbone_plain lr/memory_decayed lr/memory_plain
    """.split(),
}
VALIDATION_KEYS = set(
    "step val/loss val/rotation_deg val/direction_deg val/auc_5 val/auc_30 val/abs_rel".split()
)
# Not in this run: the point head's losses, and what only CUDA has.
OTHER_KEYS = {
    *OTHER_LOSSES,
    *(f"weighted/{loss}" for loss in OTHER_LOSSES),
    *"throughput/mfu memory/allocated_gib memory/reserved_gib data/skipped_frames/towns".split(),
}


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_names_of_metrics_are_frozen(one_process: OneProcess) -> None:
    for line in lines_of(one_process()):
        assert set(line) == (STEP_KEYS if "loss" in line else VALIDATION_KEYS)


def test_every_metric_is_documented_and_nothing_else() -> None:
    """In the list that docs/logged_metrics.md is generated from (`make reference`)."""
    keys = STEP_KEYS | VALIDATION_KEYS | OTHER_KEYS
    missing = sorted(key for key in keys if described_metric(key, TRAINING) is None)
    assert not missing, f"scal3r_train/metrics/logged.py lacks {missing}"
    idle = [one.name for one in TRAINING if not any(one.matches(key) for key in keys)]
    assert not idle, f"no run writes {idle}"


def test_the_guard_knows_which_end_is_good() -> None:
    for metric in get_args(GuardSettings.model_fields["metric"].annotation):
        entry = described_metric(metric, TRAINING)
        assert entry is not None
        assert (entry.better == "higher") == (metric in HIGHER_IS_BETTER)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.activation_checkpointing": "blocks"},
        {"model.activation_checkpointing": "segments"},
        {"optim.accumulation_steps": 2, "optim.num_steps": 3},
    ],
    ids=["plain", "blocks", "segments", "accumulated"],
)
def test_logging_changes_nothing(one_process: OneProcess, changes: dict[str, Any]) -> None:
    logged, silent = one_process(changes), one_process(changes | {"telemetry.log_every": 1000})
    assert tiny.steps(logged) and not tiny.steps(silent)
    assert_equal_states(tiny.weights(logged), tiny.weights(silent))
    first, second = (tiny.saved_state(newest(run)) for run in (logged, silent))
    assert_equal_states(first, second)


@pytest.mark.exactness
def test_logging_changes_nothing_on_two_ranks(ranks: Ranks) -> None:
    logged, silent = ranks.folder / "shared", ranks.folder / "silent"
    assert tiny.steps(logged) and not tiny.steps(silent)
    assert_equal_states(tiny.weights(logged), tiny.weights(silent))


def test_parts_add_up(one_process: OneProcess) -> None:
    for line in [line for line in lines_of(one_process()) if "loss" in line]:
        shares = [value for key, value in line.items() if key.startswith("time/")]
        assert sum(shares) == pytest.approx(1) and min(shares) >= 0
        assert line["time/sync"] == 0, "alone there is no collective"
        weighted = [value for key, value in line.items() if key.startswith("weighted/")]
        assert sum(weighted) == pytest.approx(line["loss"], rel=1e-5)
        norms = [value for key, value in line.items() if key.startswith("grad_norm/")]
        assert math.hypot(*norms) == pytest.approx(line["grad_norm"], rel=1e-5)


def test_ranks_wait_in_collectives_of_memories(ranks: Ranks) -> None:
    for line in [line for line in lines_of(ranks.folder / "shared") if "loss" in line]:
        assert line["time/sync"] > 0
        assert line["plan/largest_group"] == 2
        assert line["plan/chunks"] == 4 and line["plan/frames"] == 16


def test_skipped_steps_are_counted(ranks: Ranks) -> None:
    counts = [line["skipped_steps"] for line in tiny.steps(ranks.folder / "poisoned_once")]
    assert counts == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("mode", ["blocks", "segments"])
def test_checkpointing_counts_memories_once(one_process: OneProcess, mode: str) -> None:
    plain, recomputed = one_process(), one_process({"model.activation_checkpointing": mode})
    assert tiny.metrics(plain, "amu/") == tiny.metrics(recomputed, "amu/")


def test_padding_is_not_work(one_process: OneProcess, uneven_towns: Path) -> None:
    """Windows of 4 chunks that hold 1 to 3."""
    lines = tiny.steps(one_process({"validation.every": 0}, uneven_towns))
    assert {line["plan/chunks"] for line in lines} <= {1, 2, 3}
    assert all(line["plan/tokens"] == 11 * 4 * line["plan/chunks"] for line in lines)
