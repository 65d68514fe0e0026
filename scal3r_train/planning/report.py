"""What the steps of a recipe will look like on a world of any size, printed without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from scal3r_train.config import UserError
from scal3r_train.data.sampling.plan import Source, StepPlan, plan_step
from scal3r_train.data.sampling.sources import DataSettings, index_exists, open_sources
from scal3r_train.model.configuration_scal3r import Scal3RConfig, changes_of_memory
from scal3r_train.notes import new_console
from scal3r_train.planning.stages import run_stages
from scal3r_train.recipe import load_training_recipe
from scal3r_train.shipped import find_checkpoint
from scal3r_train.training.recipe import TrainedModelSettings, TrainingRecipe

# A plan looks at so many steps of a stage unless it is told how many, and at fewer where a step has many windows: more
# would not change the shares that it prints.
MOST_STEPS, MOST_WINDOWS = 1000, 10_000


def main(
    recipe_path: str,
    overrides: Sequence[str],
    world_size: int | None,
    num_steps: int | None = None,
    ranks_per_node: int | None = None,
) -> int:
    """Print the plan of a run on `world_size` ranks.

    Args:
        recipe_path: of a training recipe.
        overrides: `key=value`.
        world_size: ranks; None, which is refused, where neither launcher nor user named it.
        num_steps: step plans that are drawn, spread evenly over the stages of the curriculum; None: some.
        ranks_per_node: ranks that share a machine's memory; None: up to 8.

    Raises:
        UserError: a number is below 1, or the recipe is none.
    """
    recipe = load_training_recipe(recipe_path, overrides)
    if world_size is None:
        raise UserError(
            "how many ranks? Give world_size=8, or start this under torchrun or accelerate launch"
        )
    if world_size < 1 or (num_steps is not None and num_steps < 1):
        raise UserError(f"world_size={world_size} steps={num_steps}: both must be at least 1")
    if ranks_per_node is not None and not 1 <= ranks_per_node <= world_size:
        raise UserError(f"ranks_per_node={ranks_per_node}: it must be in 1..{world_size}, the world_size")
    config = _network_of(recipe.model)
    console = new_console()
    sources, is_known = plannable_sources(recipe.data)
    if not is_known:
        console.print(
            "an index does not exist yet: its sequences are taken as long enough, so no chunk is padding",
            soft_wrap=True,
        )
    stages = run_stages(recipe)
    for number, stage in enumerate(stages):
        plans = stage_plans(recipe, sources, stage.steps, world_size, num_steps, len(stages))
        name = (
            "" if len(stages) == 1 else f", stage {number} (steps {stage.steps.start:,}-{stage.steps[-1]:,})"
        )
        console.print(f"{recipe_path}{name}: {len(plans)} steps on {world_size} ranks", soft_wrap=True)
        _print_groups(console, plans)
        _print_lengths(console, plans)
        _print_work(console, plans, config, world_size)
    # Imported here: the model's base class takes seconds, and what is above is printed before.
    from scal3r_train.planning.bytes_report import print_bytes  # noqa: PLC0415

    print_bytes(console, recipe, config, stages, world_size, ranks_per_node or min(8, world_size))
    return 0


def stage_plans(
    recipe: TrainingRecipe,
    sources: Sequence[Source],
    steps: range,
    world_size: int,
    num_steps: int | None,
    num_stages: int,
) -> list[StepPlan]:
    """Return plans of a stage's first steps.

    Args:
        recipe: of the run.
        sources: the mixture.
        steps: optimizer steps of the stage; each has as many plans as micro-steps.
        world_size: ranks; None, which is refused, where neither launcher nor user named it.
        num_steps: plans to draw for all stages together; None: until the shares are known well enough.
        num_stages: of the run.
    """
    micro_steps = recipe.optim.accumulation_steps
    curriculum = recipe.curriculum.in_plans(micro_steps)
    wanted = MOST_STEPS if num_steps is None else max(1, num_steps // num_stages)
    plans: list[StepPlan] = []
    num_windows = 0
    for step in range(micro_steps * steps.start, micro_steps * steps.stop):
        if len(plans) == wanted or (num_steps is None and num_windows >= MOST_WINDOWS):
            break
        plans.append(plan_step(curriculum, sources, recipe.seed, step, world_size))
        num_windows += plans[-1].num_sequences
    return plans


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


def _network_of(settings: TrainedModelSettings) -> Scal3RConfig:
    if settings.network is not None:
        return Scal3RConfig(**settings.network.model_dump())
    assert settings.checkpoint is not None
    folder = find_checkpoint(settings.checkpoint)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model.checkpoint {settings.checkpoint} holds no config.json; give a save_pretrained folder"
        )
    return Scal3RConfig.from_pretrained(folder, **changes_of_memory(settings.memory))
