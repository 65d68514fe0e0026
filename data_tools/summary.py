"""scal3r data summary: what indexes, or the mixture of a recipe, consist of, printed without reading a file of them.

Sizes are what the indexes state, computed on whole columns ([sequences] arrays) without a Python object per frame;
shares of a mixture come from drawing step plans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scal3r_data_tools.jobs import progress
from scal3r_train.config import StrictModel, UserError, load_config
from scal3r_train.data.index.index import SequenceIndex, load_index
from scal3r_train.data.sampling.plan import Source, plan_step
from scal3r_train.data.sampling.sources import denied_rows, index_exists, open_sources
from scal3r_train.notes import new_console, printable
from scal3r_train.recipe import TrainingRecipe, load_training_recipe

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
URL = re.compile(r"\w+://")
PIPE_WIDTH = 160  # of the tables where nobody watches


def path_lengths(index: SequenceIndex) -> np.ndarray:
    """Way of each sequence's camera [sequences] in its own unit; NaN without poses and for frames in no order."""
    found = [np.empty(0)]
    for rows, lengths, owner in _chunks(index, "cam_from_world"):
        poses = rows.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 3, 4)
        position = -np.einsum("sji,sj->si", poses[:, :, :3], poses[:, :, 3])
        steps = np.linalg.norm(np.diff(position, axis=0), axis=-1)
        is_within = owner[1:] == owner[:-1]
        ways = np.bincount(owner[1:][is_within], steps[is_within], minlength=len(lengths))
        found.append(np.where(lengths > 0, ways, np.nan))
    return np.where(index.column("is_ordered"), np.concatenate(found), np.nan)


def num_named_files(index: SequenceIndex, column: str) -> np.ndarray:
    """Frames of each sequence [sequences] int64 that have a file in a column such as "depth"."""
    found = [np.empty(0, np.int64)]
    for rows, lengths, owner in _chunks(index, column):
        has_name = pyarrow.compute.binary_length(rows.flatten()).to_numpy(zero_copy_only=False) > 0
        found.append(np.bincount(owner[has_name], minlength=len(lengths)))
    return np.concatenate(found)


def counts_frames(index: SequenceIndex) -> np.ndarray:
    """Whether all times of a sequence are whole numbers [sequences] bool: frames were counted, no clock was read."""
    found = [np.empty(0, bool)]
    for rows, lengths, owner in _chunks(index, "timestamp"):
        times = rows.flatten().to_numpy(zero_copy_only=False)
        found.append(np.bincount(owner[times != np.floor(times)], minlength=len(lengths)) == 0)
    return np.concatenate(found)


def _chunks(index: SequenceIndex, column: str) -> Iterator[tuple[pyarrow.Array, np.ndarray, np.ndarray]]:
    """Yield a per-frame column piece by piece: lists, their lengths, and for each frame which of the lists it is in."""
    for rows in index.frame_column(column).chunks:
        lengths = rows.value_lengths().to_numpy(zero_copy_only=False)
        yield rows, lengths, np.repeat(np.arange(len(lengths)), lengths)


@dataclass(frozen=True)
class DatasetFacts:
    """The sequences of one data set in one index.

    Attributes:
        name: of the data set.
        licences: all that occur.
        num_sequences, num_frames: how many.
        num_denied: sequences that the deny-list keeps out of training.
        num_missing: frames that are listed but were not there.
        num_synthetic, num_posed: sequences that are rendered, and that have poses.
        num_with_depth: frames that have a depth file.
        hours: length of the videos whose times are real; None when there are none.
        kilometres: camera path of metric videos; None when there are none.
    """

    name: str
    licences: tuple[str, ...]
    num_sequences: int
    num_frames: int
    num_denied: int
    num_missing: int
    num_synthetic: int
    num_posed: int
    num_with_depth: int
    hours: float | None
    kilometres: float | None


@dataclass(frozen=True)
class SourceShare:
    """What one source of a mixture contributes.

    Attributes:
        name: of the source.
        share_of_sequences: of those drawn, exact.
        share_of_frames: of those shown, by drawing.
        frames_per_step: shown in an optimizer step over all ranks, by drawing; frames of overlaps count twice.
        times_seen: how often the run shows each frame of the source, on average.
    """

    name: str
    share_of_sequences: float
    share_of_frames: float
    frames_per_step: float
    times_seen: float


def dataset_facts(index: SequenceIndex) -> list[DatasetFacts]:
    """Return the data sets of an index by name."""
    columns = ("dataset", "licence", "num_missing", "is_synthetic", "is_metric")
    name, licence, missing, synthetic, metric = (np.array(index.column(column)) for column in columns)
    frames, is_denied = np.array(index.num_frames), denied_rows(index)
    is_posed = np.ones(len(index), bool)
    is_posed[index.rows_without("cam_from_world")] = False
    with_depth = num_named_files(index, "depth")
    seconds = np.where(counts_frames(index), np.nan, index.durations_s())
    metres = np.where(metric.astype(bool), path_lengths(index), np.nan)
    found = []
    for dataset in np.unique(name):
        own = name == dataset
        found.append(
            DatasetFacts(
                name=str(dataset),
                licences=tuple(sorted(set(licence[own].tolist()))),
                num_sequences=int(own.sum()),
                num_frames=int(frames[own].sum()),
                num_denied=int(is_denied[own].sum()),
                num_missing=int(missing[own].sum()),
                num_synthetic=int(synthetic[own].sum()),
                num_posed=int(is_posed[own].sum()),
                num_with_depth=int(with_depth[own].sum()),
                hours=_sum_known(seconds[own], 3600),
                kilometres=_sum_known(metres[own], 1000),
            )
        )
    return found


def source_shares(
    recipe: TrainingRecipe, sources: Sequence[Source], world_size: int, num_plans: int
) -> list[SourceShare]:
    """Return the shares of the sources, whose lengths are known, by drawing step plans spread over the whole run.

    Raises UserError when a plan cannot be made.
    """
    curriculum = recipe.curriculum.in_plans(recipe.optim.accumulation_steps)
    run = recipe.optim.num_steps * recipe.optim.accumulation_steps
    steps = np.unique(np.linspace(0, run - 1, min(num_plans, run)).astype(int)).tolist()
    shown = np.zeros(len(sources))
    for step in progress(steps, len(steps), "plans"):
        plan = plan_step(curriculum, sources, recipe.seed, step, world_size)
        for source, num in plan.num_frames().items():
            shown[source] += num
    per_plan = shown / len(steps)
    weights = np.array([source.weight for source in sources])
    available = np.array([0 if s.num_frames is None else s.num_frames.sum() for s in sources])
    return [
        SourceShare(
            name=source.name,
            share_of_sequences=float(weights[place] / weights.sum()),
            share_of_frames=float(shown[place] / shown.sum()),
            frames_per_step=float(per_plan[place] * recipe.optim.accumulation_steps),
            times_seen=float(per_plan[place] * run / max(available[place], 1)),
        )
        for place, source in enumerate(sources)
    ]


def _sum_known(values: np.ndarray, unit: float) -> float | None:
    return float(np.nansum(values)) / unit if np.isfinite(values).any() else None


class SummarySettings(StrictModel):
    """Settings of a summary of a recipe."""

    world_size: int = Field(32, ge=1, description="ranks that the step plans are drawn for [ranks]")
    steps: int = Field(200, ge=1, description="step plans to draw, spread over the run [step plans]")


def main(arguments: Sequence[str]) -> int:
    """Print tables for `RECIPE|INDEX [INDEX ...] [key=value ...]`; returns 0.

    Indexes that do not exist or cannot be read are named, and the others are shown. Raises UserError when there are no
    others, the recipe cannot be read, or a key is unknown.
    """
    names, overrides = _split(arguments)
    if Path(names[0]).suffix.lower() not in RECIPE_SUFFIXES:
        load_config(SummarySettings, None, overrides)  # refuses what only a recipe has
        _print_datasets(_console(), _loaded(names))
        return 0
    if len(names) > 1:
        raise UserError(
            f"{names[1]} cannot stand beside a recipe, which names its indexes; leave one of them out"
        )
    own = [text for text in overrides if text.partition("=")[0] in SummarySettings.model_fields]
    settings = load_config(SummarySettings, None, own)
    recipe = load_training_recipe(names[0], [text for text in overrides if text not in own])
    console = _console()
    indexes = _loaded([source.index for source in recipe.data.sources])
    _print_datasets(console, indexes)
    _print_mixture(console, recipe, indexes, settings)
    return 0


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of a recipe or indexes, and key=value; the first is a name whatever it holds."""
    names: list[str] = list(arguments[:1])
    overrides: list[str] = []
    for text in arguments[1:]:
        is_name = "=" not in text or URL.match(text) or Path(text).exists()
        (names if is_name else overrides).append(text)
    return names, overrides


def _console() -> Console:
    console = new_console()
    return console if console.is_terminal else new_console(width=PIPE_WIDTH)


def _loaded(names: Sequence[str]) -> dict[str, SequenceIndex | str]:
    """Each index, or why there is none."""
    found: dict[str, SequenceIndex | str] = {}
    for name in names:
        try:
            found[name] = load_index(name) if index_exists(name) else "does not exist"
        except UserError as error:
            found[name] = str(error)
    if not any(isinstance(index, SequenceIndex) for index in found.values()):
        _print_unreadable(_console(), found)
        raise UserError("none of these indexes can be read; write them with `scal3r data index`")
    return found


def _print_datasets(console: Console, indexes: dict[str, SequenceIndex | str]) -> None:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("data set", overflow="fold")
    for title in ("sequences", "frames", "missing", "hours", "km"):
        table.add_column(title, justify="right")
    for title in ("kind", "depth", "poses"):
        table.add_column(title)
    table.add_column("kept out", justify="right")
    table.add_column("licence", overflow="fold")
    facts = [
        fact for index in indexes.values() if not isinstance(index, str) for fact in dataset_facts(index)
    ]
    for fact in facts:
        table.add_row(*map(printable, _cells(fact)))
    if len(facts) > 1:
        table.add_section()
        table.add_row(*_total(facts))
    console.print(table)
    _print_unreadable(console, indexes)
    if any(fact.num_denied for fact in facts):
        console.print("kept out: sequences that the deny-list keeps out of training", soft_wrap=True)


def _print_unreadable(console: Console, indexes: dict[str, SequenceIndex | str]) -> None:
    for name, index in indexes.items():
        if isinstance(index, str):
            console.print(printable(f"{name}: {index}"), soft_wrap=True, markup=False, highlight=False)


def _cells(fact: DatasetFacts) -> tuple[str, ...]:
    kinds = {0: "real", fact.num_sequences: "rendered"}
    return (
        fact.name,
        f"{fact.num_sequences:,}",
        f"{fact.num_frames:,}",
        f"{fact.num_missing:,}" if fact.num_missing else "-",
        _amount(fact.hours),
        _amount(fact.kilometres),
        kinds.get(fact.num_synthetic, "both"),
        _part(fact.num_with_depth, fact.num_frames, "frames"),
        _part(fact.num_posed, fact.num_sequences, "sequences"),
        f"{fact.num_denied:,}" if fact.num_denied else "-",
        ", ".join(licence or "not given" for licence in fact.licences),
    )


def _total(facts: Sequence[DatasetFacts]) -> tuple[str, ...]:
    hours = [fact.hours for fact in facts if fact.hours is not None]
    kilometres = [fact.kilometres for fact in facts if fact.kilometres is not None]
    missing, denied = sum(fact.num_missing for fact in facts), sum(fact.num_denied for fact in facts)
    return (
        "all",
        f"{sum(fact.num_sequences for fact in facts):,}",
        f"{sum(fact.num_frames for fact in facts):,}",
        f"{missing:,}" if missing else "-",
        _amount(sum(hours) if hours else None),
        _amount(sum(kilometres) if kilometres else None),
        "",
        _part(sum(f.num_with_depth for f in facts), sum(f.num_frames for f in facts), "frames"),
        _part(sum(f.num_posed for f in facts), sum(f.num_sequences for f in facts), "sequences"),
        f"{denied:,}" if denied else "-",
    )


def _print_mixture(
    console: Console,
    recipe: TrainingRecipe,
    indexes: dict[str, SequenceIndex | str],
    settings: SummarySettings,
) -> None:
    present = tuple(source for source in recipe.data.sources if not isinstance(indexes[source.index], str))
    try:
        _, sources = open_sources(recipe.data.model_copy(update={"sources": present}))
        shares = source_shares(recipe, sources, settings.world_size, settings.steps)
    except UserError as error:
        console.print(
            f"the mixture cannot be planned: {error}", soft_wrap=True, markup=False, highlight=False
        )
        return
    total = sum(share.frames_per_step for share in shares)
    console.print(
        f"{settings.world_size} ranks, {recipe.optim.num_steps:,} steps, {total:,.0f} frames a step"
        + (
            f"; shares are those of the {len(present)} of {len(recipe.data.sources)} indexes that can be read"
            if len(present) < len(recipe.data.sources)
            else ""
        )
        + ("; the deny-list is off" if recipe.data.deny_list == "off" else ""),
        soft_wrap=True,
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD)
    table.add_column("source", overflow="fold")
    for title in ("weight", "of the sequences", "of the frames", "frames a step", "each frame is seen"):
        table.add_column(title, justify="right")
    for source, share in zip(present, shares, strict=True):
        table.add_row(*map(printable, _share_cells(source.weight, share)))
    console.print(table)


def _share_cells(weight: float, share: SourceShare) -> tuple[str, ...]:
    return (
        share.name,
        f"{weight:g}",
        f"{100 * share.share_of_sequences:.1f} %",
        f"{100 * share.share_of_frames:.1f} %",
        f"{share.frames_per_step:,.1f}",
        f"{_amount(share.times_seen)} times",
    )


def _amount(value: float | None) -> str:
    """Three digits, or "-" for what is not known."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _part(num: int, total: int, what: str) -> str:
    if num in (0, total):
        return "yes" if num else "no"
    return f"{100 * num / total:.3g} % of {what}"
