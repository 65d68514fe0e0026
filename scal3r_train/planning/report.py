"""What the steps of a recipe will look like on a world of any size, printed without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from scal3r_train.config import UserError
from scal3r_train.data.sampling.plan import Source, StepPlan, plan_step
from scal3r_train.data.sampling.sources import DataSettings, index_exists, open_sources
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.planning.step_size import StepSize
from scal3r_train.recipe import load_training_recipe
from scal3r_train.training.recipe import TrainedModelSettings


def main(recipe_path: str, overrides: Sequence[str], world_size: int, num_steps: int) -> int:
    """Print the plan of the first `num_steps` steps on `world_size` ranks."""
    if world_size < 1 or num_steps < 1:
        raise UserError(f"world_size={world_size} steps={num_steps}: both must be at least 1")
    recipe = load_training_recipe(recipe_path, overrides)
    config = _network_of(recipe.model)
    console = Console()
    sources, is_known = plannable_sources(recipe.data)
    if not is_known:
        console.print(
            "an index does not exist yet: its sequences are taken as long enough, so no chunk is padding",
            soft_wrap=True,
        )
    curriculum = recipe.curriculum.in_plans(recipe.optim.accumulation_steps)
    plans = [plan_step(curriculum, sources, recipe.seed, step, world_size) for step in range(num_steps)]
    console.print(f"{recipe_path}: {num_steps} steps on {world_size} ranks", soft_wrap=True)
    _print_groups(console, plans)
    _print_lengths(console, plans)
    _print_work(console, plans, config, world_size)
    # Imported here: the model's base class takes seconds, and what is above is printed before.
    from scal3r_train.planning.memory_report import print_memory  # noqa: PLC0415

    print_memory(console, recipe, config, largest_step(plans, config), world_size)
    return 0


def plannable_sources(settings: DataSettings) -> tuple[list[Source], bool]:
    """Return the mixture with the lengths of its sequences, and whether all of them are known."""
    missing = [source.index for source in settings.sources if not index_exists(source.index)]
    if not missing:
        return open_sources(settings)[1], True
    return [Source(source.index, source.weight, None) for source in settings.sources], False


def rank_work(plan: StepPlan, patch_size: int, num_special_tokens: int) -> int:
    """Return the tokens each rank passes through the network in a step, equal for all ranks by construction."""
    shape = plan.shape
    patches = (shape.resolution.height // patch_size) * (shape.resolution.width // patch_size)
    num_sequences = len(plan.groups[0].windows)
    return num_sequences * shape.chunks_per_rank * shape.chunk_size * (patches + num_special_tokens)


def _print_groups(console: Console, plans: Sequence[StepPlan]) -> None:
    sizes = Counter(len(group.ranks) for plan in plans for group in plan.groups for _ in group.ranks)
    total = sum(sizes.values())
    console.print("context groups: share of ranks")
    table = Table()
    table.add_column("ranks in group", justify="right")
    table.add_column("share", justify="right")
    for size in sorted(sizes):
        table.add_row(str(size), f"{100 * sizes[size] / total:.1f} %")
    console.print(table)


def _print_lengths(console: Console, plans: Sequence[StepPlan]) -> None:
    chunks: Counter[int] = Counter()
    frames: dict[int, set[int]] = {}
    for plan in plans:
        for window in (window for group in plan.groups for window in group.windows):
            chunks[window.num_chunks] += 1
            frames.setdefault(window.num_chunks, set()).add(plan.shape.window_frames(window.num_chunks))
    most = max(chunks.values())
    console.print("effective lengths")
    table = Table()
    for name in ("chunks", "frames", "sequences"):
        table.add_column(name, justify="right")
    table.add_column("")
    for count in sorted(chunks):
        span = sorted(frames[count])
        shown = str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}"
        table.add_row(str(count), shown, str(chunks[count]), "#" * max(1, round(40 * chunks[count] / most)))
    console.print(table)


def _print_work(console: Console, plans: Sequence[StepPlan], config: Scal3RConfig, world_size: int) -> None:
    tokens = np.array([rank_work(plan, config.patch_size, config.num_special_tokens) for plan in plans])
    slots = sum(plan.shape.chunks_per_rank * len(plan.groups[0].windows) * world_size for plan in plans)
    padding = 1 - sum(plan.num_real_chunks for plan in plans) / slots
    console.print(
        f"work: every rank does the same in a step: {tokens.min():,}-{tokens.max():,} tokens "
        f"(mean {tokens.mean():,.0f}); padding {100 * padding:.2f} % of chunks",
        soft_wrap=True,
    )


def largest_step(plans: Sequence[StepPlan], config: Scal3RConfig) -> StepSize:
    """Return the size of the step in which a rank passes the most tokens."""
    plan = max(plans, key=lambda each: rank_work(each, config.patch_size, config.num_special_tokens))
    shape = plan.shape
    return StepSize(
        num_sequences=len(plan.groups[0].windows),
        num_chunks=shape.chunks_per_rank,
        num_frames=shape.chunk_size,
        height=shape.resolution.height,
        width=shape.resolution.width,
    )


def _network_of(settings: TrainedModelSettings) -> Scal3RConfig:
    if settings.network is not None:
        return Scal3RConfig(**settings.network.model_dump())
    assert settings.checkpoint is not None
    if not (Path(settings.checkpoint) / "config.json").is_file():
        raise UserError(
            f"model.checkpoint {settings.checkpoint} holds no config.json; give a save_pretrained folder"
        )
    return Scal3RConfig.from_pretrained(settings.checkpoint)
