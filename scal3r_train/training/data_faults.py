"""Data that cannot be read: all ranks agree on what takes its place, count it, and say so.

A window is unreadable when any rank of its context group cannot use its part of it. All ranks learn so in one exchange,
the ranks of the group read the same other window (data/sampling/plan.py), and all exchange again. Who reads what
depends on the step and on which files can be read, on nothing else. Single frames that cannot be read were replaced
where they were read (data/window.py); here they are counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scal3r_train.config import UserError, write_text_atomically
from scal3r_train.data.dataset import FailedBatch, StepDataset, UnreadableWindow
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.plan import GroupPlan, Source, StepPlan, WindowSlot, fallback_window
from scal3r_train.data.sampling.sources import DataSettings
from scal3r_train.data.sequence import SequenceBatch, SkippedFrame
from scal3r_train.losses.targets import require_finite
from scal3r_train.parallel.collectives import broadcast_from_main, gather_to_all
from scal3r_train.parallel.process import Process
from scal3r_train.text_file import parse_json
from scal3r_train.training.step import MicroStep

FILE_NAME = "data_faults.jsonl"
MIN_STEPS = 100  # that a share is taken of; one fault in the second step is not 50 % of a run


@dataclass(frozen=True)
class FaultyWindow:
    """A window that some rank could not read.

    Attributes:
        micro_step, group: where in the step: number of the micro-step, first rank of the context group.
        rank: which could not read it.
        window: what that rank reported.
    """

    micro_step: int
    group: int
    rank: int
    window: UnreadableWindow

    @property
    def key(self) -> tuple[int, int, int]:
        """Identifies the window in its step."""
        return self.micro_step, self.group, self.window.place


class DataFaults:
    """Replaces windows that cannot be read, and keeps account of them in `data_faults.jsonl`."""

    def __init__(
        self,
        settings: DataSettings,
        curriculum: CurriculumSettings,
        sources: Sequence[Source],
        seed: int,
        dataset: StepDataset,
        process: Process,
        folder: Path,
    ) -> None:
        """Note where to draw and read other windows; `folder` is that of the run."""
        self.settings = settings
        self.num_fallbacks = 0
        self.num_skipped_frames: Counter[str] = Counter()  # by data set
        self._num_faulty_steps = 0
        self._curriculum, self._sources, self._seed = curriculum, sources, seed
        self._dataset, self._process = dataset, process
        self._path = folder / FILE_NAME
        self._reported: set[str] = set()

    def resume(self, step: int) -> None:
        """Take over the account of the first `step` steps and forget later lines; all ranks call this."""
        lines: list[dict[str, Any]] = []
        if self._process.is_main and self._path.exists():
            lines = _lines_until(self._path, step)
            write_text_atomically(self._path, "".join(json.dumps(line) + "\n" for line in lines))
            self._reported = {
                f"{line['dataset']}/{line['sequence']}" if "frame" in line else line["sequence"]
                for line in lines
            }
        faulty = [line["step"] for line in lines if "frame" not in line]
        skipped = Counter(line["dataset"] for line in lines if "frame" in line)
        account = broadcast_from_main((len(faulty), len(set(faulty)), skipped))
        self.num_fallbacks, self._num_faulty_steps, self.num_skipped_frames = account

    def counts(self) -> dict[str, int]:
        """Return what the metrics say: windows and frames that could not be read, frames also by data set."""
        by_set = {f"data/skipped_frames/{name}": num for name, num in sorted(self.num_skipped_frames.items())}
        total = {"data/fallbacks": self.num_fallbacks, "data/skipped_frames": self.num_skipped_frames.total()}
        return total | by_set

    def replace_unreadable(
        self, step: int, micro_steps: Sequence[MicroStep], say: Callable[[str], None]
    ) -> list[MicroStep]:
        """Return the micro-steps with readable windows, equal to what was given if all of it can be read.

        All ranks call this together. Costs one exchange of a few bytes, another one per attempt.

        Args:
            step: number of the optimizer step, counted from 1, for messages.
            micro_steps: of the step.
            say: prints a line; called once for each sequence.

        Raises:
            UserError: nothing readable in `max_fallbacks_per_step` attempts, or too many such steps; on all ranks.
        """
        result = list(micro_steps)
        faulty, skipped = self._exchange(result)
        if not faulty:
            self._account_skipped(step, skipped, say)
            return result
        self._num_faulty_steps += 1
        avoided: dict[tuple[int, int, int], set[tuple[int, int]]] = {}
        for attempt in range(1, self.settings.max_fallbacks_per_step + 1):
            before = list(result)
            for one in faulty:
                window = _group_starting_at(result[one.micro_step].plan, one.group).windows[one.window.place]
                avoided.setdefault(one.key, set()).add((window.source, window.row))
                result[one.micro_step] = self._replaced(
                    result[one.micro_step], one, attempt, avoided[one.key]
                )
            self._account(step, attempt, faulty, result, say)
            self._refuse_too_many(step, faulty[0])
            result = [self._read_again(new, old.plan) for new, old in zip(result, before, strict=True)]
            faulty, skipped = self._exchange(result)
            if not faulty:
                self._account_skipped(step, skipped, say)
                return result
        tried = f" ({self.settings.max_fallbacks_per_step} other windows neither)" if avoided else ""
        raise UserError(f"step {step}: {faulty[0].window.reason}{tried}")

    def _exchange(self, micro_steps: Sequence[MicroStep]) -> tuple[list[FaultyWindow], list[SkippedFrame]]:
        """Return the windows of all micro-steps that some rank cannot use, and the frames that any has skipped.

        The same lists on every rank.
        """
        mine = [
            FaultyWindow(
                place,
                micro_step.plan.for_rank(self._process.rank).group.ranks.start,
                self._process.rank,
                window,
            )
            for place, micro_step in enumerate(micro_steps)
            for window in unusable_windows(micro_step.batch)
        ]
        batches = [micro_step.batch for micro_step in micro_steps]
        my_skipped = [
            frame for batch in batches if isinstance(batch, SequenceBatch) for frame in batch.skipped
        ]
        by_key: dict[tuple[int, int, int], FaultyWindow] = {}
        by_frame: dict[tuple[str, str, int], SkippedFrame] = {}
        for reported, skipped in gather_to_all((mine, my_skipped)):
            for faulty in reported:
                by_key.setdefault(faulty.key, faulty)
            for frame in skipped:  # ranks that share an overlap report the same ones
                by_frame.setdefault((frame.dataset, frame.sequence_id, frame.index), frame)
        return [by_key[key] for key in sorted(by_key)], [by_frame[key] for key in sorted(by_frame)]

    def _replaced(
        self, micro_step: MicroStep, faulty: FaultyWindow, attempt: int, avoided: set[tuple[int, int]]
    ) -> MicroStep:
        """Return the micro-step with another window in its plan; nothing is read yet."""
        plan, place = micro_step.plan, faulty.window.place
        group = _group_starting_at(plan, faulty.group)
        window = fallback_window(
            self._curriculum, self._sources, self._seed, WindowSlot(plan, group, place), attempt, avoided
        )
        windows = (*group.windows[:place], window, *group.windows[place + 1 :])
        groups = tuple(replace(other, windows=windows) if other is group else other for other in plan.groups)
        return replace(micro_step, plan=replace(plan, groups=groups))

    def _read_again(self, micro_step: MicroStep, before: StepPlan) -> MicroStep:
        """Return the micro-step with the data of its changed plan, if that concerns this rank."""
        ours = micro_step.plan.for_rank(self._process.rank)
        if ours == before.for_rank(self._process.rank):
            return micro_step
        return replace(micro_step, batch=self._dataset.read(ours))

    def _account(
        self,
        step: int,
        attempt: int,
        faulty: Sequence[FaultyWindow],
        replaced: Sequence[MicroStep],
        say: Callable[[str], None],
    ) -> None:
        self.num_fallbacks += len(faulty)
        if not self._process.is_main:
            return
        lines: list[dict[str, Any]] = []
        for one in faulty:
            window = _group_starting_at(replaced[one.micro_step].plan, one.group).windows[one.window.place]
            lines.append(
                {
                    "step": step,
                    "sequence": one.window.sequence_id,
                    "reason": one.window.reason,
                    "rank": one.rank,
                    "attempt": attempt,
                    "replaced_by": self._dataset.sequence_id(window),
                }
            )
            if one.window.sequence_id not in self._reported:
                self._reported.add(one.window.sequence_id)
                say(
                    f"step {step}: {one.window.reason}; another window takes the place of "
                    f"{one.window.sequence_id}, now and whenever it is met ({FILE_NAME})"
                )
        self._append(lines)

    def _account_skipped(
        self, step: int, skipped: Sequence[SkippedFrame], say: Callable[[str], None]
    ) -> None:
        self.num_skipped_frames.update(frame.dataset for frame in skipped)
        if not self._process.is_main or not skipped:
            return
        for frame in skipped:
            name = f"{frame.dataset}/{frame.sequence_id}"
            if name not in self._reported:
                self._reported.add(name)
                say(
                    f"step {step}: {frame.reason}; such frames of {frame.sequence_id} are replaced by their "
                    f"neighbours or go without depth, now and whenever they are met ({FILE_NAME})"
                )
        self._append(
            [
                {
                    "step": step,
                    "dataset": frame.dataset,
                    "sequence": frame.sequence_id,
                    "frame": frame.index,
                    "reason": frame.reason,
                }
                for frame in skipped
            ]
        )

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def _refuse_too_many(self, step: int, faulty: FaultyWindow) -> None:
        if self._num_faulty_steps > self.settings.max_fallback_share * max(step, MIN_STEPS):
            raise UserError(
                f"{self._num_faulty_steps} of {step} steps met data that cannot be read, more than "
                f"data.max_fallback_share = {self.settings.max_fallback_share:g}; mend the files that {self._path} "
                f"lists; last: {faulty.window.reason}"
            )


def unusable_windows(batch: SequenceBatch | FailedBatch) -> list[UnreadableWindow]:
    """Return the windows of a batch that could not be read or hold numbers that are not finite."""
    if isinstance(batch, FailedBatch):
        return list(batch.windows)
    found = []
    for place, name in enumerate(batch.sequence_ids):
        try:
            require_finite(_sequence(batch, place))
        except UserError as error:
            found.append(UnreadableWindow(place, name, str(error)))
    return found


def _sequence(batch: SequenceBatch, place: int) -> SequenceBatch:
    """Return one sequence of a batch, B = 1."""
    rows = slice(place, place + 1)
    cut = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return SequenceBatch(**(vars(batch) | cut | {"sequence_ids": batch.sequence_ids[rows]}))


def _group_starting_at(plan: StepPlan, rank: int) -> GroupPlan:
    return next(group for group in plan.groups if group.ranks.start == rank)


def _lines_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Return the lines of the first `step` steps; one cut short by a kill counts as never written."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = parse_json(text)
            is_before = line["step"] <= step
        except (ValueError, KeyError, TypeError):
            continue
        if is_before:
            lines.append(line)
    return lines
