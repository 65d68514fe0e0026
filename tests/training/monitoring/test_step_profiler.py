"""The clock of training steps: phases inside phases, backward, marks that the device has not passed yet."""

import pytest
import torch

from scal3r_train.training.monitoring.step_profiler import StepClock, WallTimer


class ScriptedTimer:
    """Every mark is one tick later than the one before; only marks up to `passed` can be read without waiting."""

    def __init__(self) -> None:
        self.now = 0
        self.passed = 10**9
        self.waited = 0

    def mark(self) -> int:
        self.now += 1
        return self.now

    def is_past(self, mark: int, *, wait: bool) -> bool:
        if wait and mark > self.passed:
            self.waited += 1
            self.passed = mark
        return mark <= self.passed

    def seconds(self, first: int, second: int) -> float:
        assert max(first, second) <= self.passed, "read before the device came there"
        return float(second - first)


def present(seconds: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in seconds.items() if value}


def test_a_phase_ends_the_one_around_it() -> None:
    """Marks: other 1, forward 2, sync 3, forward 4, other 5, optimizer 6, other 7, end 8."""
    clock = StepClock(ScriptedTimer())
    with clock.step():
        with clock.phase("forward"):
            with clock.phase("sync"):
                pass
        with clock.phase("optimizer"):
            pass
    assert present(clock.take()) == {"other": 3.0, "forward": 2.0, "sync": 1.0, "optimizer": 1.0}
    assert present(clock.take()) == {}


def test_time_between_steps_is_nobodys() -> None:
    timer = ScriptedTimer()
    clock = StepClock(timer)
    for _ in range(3):
        with clock.step():
            pass
        timer.now += 1000
    assert present(clock.take()) == {"other": 3.0}


def test_phases_may_begin_in_backward() -> None:
    """Marks: other 1, backward 2, sync 3, backward 4, sync 5, backward 6, other 7, end 8."""
    clock = StepClock(ScriptedTimer())
    x = torch.ones(3, requires_grad=True)

    def wait(gradient: torch.Tensor) -> None:
        with clock.phase("sync"):
            pass

    doubled = 2 * x
    doubled.register_hook(wait)
    tripled = 3 * doubled
    tripled.register_hook(wait)
    with clock.step(), clock.phase("backward"):
        tripled.sum().backward()
    assert present(clock.take()) == {"other": 2.0, "backward": 3.0, "sync": 2.0}


def test_no_step_waits_for_the_device() -> None:
    timer = ScriptedTimer()
    timer.passed = 0
    clock = StepClock(timer)
    for _ in range(4):
        with clock.step(), clock.phase("forward"):
            pass
    assert timer.waited == 0
    assert present(clock.take()) == {"other": 8.0, "forward": 4.0}
    assert timer.waited > 0


def test_a_failed_step_leaves_no_time() -> None:
    clock = StepClock(ScriptedTimer())
    with pytest.raises(RuntimeError), clock.step(), clock.phase("data"):
        raise RuntimeError
    with clock.step():
        pass
    assert present(clock.take()) == {"other": 1.0}


def test_the_wall_clock_goes_forward() -> None:
    timer = WallTimer()
    first, second = timer.mark(), timer.mark()
    assert timer.is_past(second, wait=False) and timer.seconds(first, second) >= 0
