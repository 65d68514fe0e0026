"""Tables of a plan: what a rank holds under each engine, what it sends, and what would have to give on each device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.parallel.launch import launched_engine
from scal3r_train.parallel.settings import EngineName
from scal3r_train.planning.choices import (
    DEVICE_SIZES_GB,
    GIB,
    MODES,
    RESERVED_BYTES,
    RESERVED_SHARE,
    Choice,
    Costs,
    budget_of,
    cheapest_that_fits,
    engines_for,
    roomiest,
)
from scal3r_train.planning.communicators import (
    BYTES_PER_COMMUNICATOR,
    communicator_bytes,
    num_communicators,
)
from scal3r_train.planning.engine_bytes import FP32, traffic
from scal3r_train.planning.host_bytes import host_bytes
from scal3r_train.planning.stages import RunStage
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.recipe import TrainingRecipe

MIB = 2**20


def print_bytes(
    console: Console,
    recipe: TrainingRecipe,
    network: Scal3RConfig,
    stages: Sequence[RunStage],
    world_size: int,
    ranks_per_node: int,
) -> None:
    """Print what the largest step of each stage needs, and of the largest of them, what other settings would."""
    costs = Costs(
        network,
        recipe.losses,
        recipe.optim,
        world_size,
        chunks_per_pass=recipe.model.chunks_per_pass,
    )
    choice = Choice(
        planned_engine(recipe, world_size),
        recipe.model.activation_checkpointing,
        recipe.parallel.precision,
        recipe.model.train,
        recipe.model.frozen_dtype,
        recipe.model.lora,
    )
    size = max((stage.largest for stage in stages), key=lambda each: costs.peak(choice, each))
    parameters = costs.model_size(choice, size)
    console.print(
        f"model: {parameters.total / 1e6:.2f} M parameters, {parameters.trained / 1e6:.2f} M of them trained",
        f"bytes per rank on CUDA (G: 2^30) with {choice.engine}, {choice.checkpointing}, {choice.precision}; "
        "predicted, not measured",
        sep="\n",
        soft_wrap=True,
    )
    _print_stages(console, costs, choice, stages)
    console.print(f"the largest, {_shape(size)}:", soft_wrap=True)
    _print_activations(console, costs, choice, size)
    _print_engines(console, costs, choice, size)
    _print_traffic(console, costs, choice, size)
    _print_fits(console, costs, choice, size)
    _print_host(console, costs, choice, size, recipe.data.num_workers, ranks_per_node)


def planned_engine(recipe: TrainingRecipe, world_size: int) -> EngineName:
    """Return the engine that a run would have: the launcher's, the recipe's, DDP, or for one process none.

    Raises:
        UserError: the launcher asks for something that this project does not run under.
    """
    if world_size == 1:
        return "single"
    engine = recipe.parallel.engine
    if engine == "launcher":
        return launched_engine() or "ddp"
    return "ddp" if engine == "single" else engine


def _print_stages(console: Console, costs: Costs, choice: Choice, stages: Sequence[RunStage]) -> None:
    rows = []
    for stage in stages:
        activations = costs.step(choice, stage.largest).activations
        rows.append(
            [
                f"{stage.steps.start:,}-{stage.steps[-1]:,}",
                _shape(stage.largest),
                _size(activations),
                _size(costs.peak(choice, stage.largest)),
            ]
        )
    _print_table(console, ["steps", "largest: sequences x chunks x frames", "activations", "peak"], rows)


def _shape(size: StepSize) -> str:
    of_chunks = f"{size.num_sequences} x {size.num_chunks} x {size.num_frames}"
    return f"{of_chunks} frames of {size.height} x {size.width}"


def _print_activations(console: Console, costs: Costs, choice: Choice, size: StepSize) -> None:
    rows = []
    for mode in MODES:
        step = costs.step(replace(choice, checkpointing=mode), size)
        rows.append([_marked(mode, choice.checkpointing), _size(step.activations), _size(step.memories)])
    _print_table(console, ["activation checkpointing", "activations", "of memory units"], rows)


def _print_engines(console: Console, costs: Costs, choice: Choice, size: StepSize) -> None:
    rows, notes = [], []
    for engine in engines_for(costs.world_size):
        modes = [replace(choice, engine=engine, checkpointing=mode) for mode in MODES]
        states = costs.states(modes[0], size)
        numbers = (
            states.parameters,
            states.gradients,
            states.optimizer,
            states.buffers + states.working,
            *(costs.peak(mode, size) for mode in modes),
        )
        rows.append([_marked(engine, choice.engine), *map(_size, numbers)])
        if states.host > 0:
            notes.append(f"{engine}: {_size(states.host)} in the host's memory, for each rank")
    console.print("states, and the peak by activation checkpointing:")
    names = ["weights", "gradients", "optimizer", "buffers", *MODES]
    _print_table(console, ["engine", *names], rows)
    console.print("\n".join(notes), soft_wrap=True)


def _print_traffic(console: Console, costs: Costs, choice: Choice, size: StepSize) -> None:
    if costs.world_size == 1:
        return
    micro_steps = costs.optim.accumulation_steps
    memories = costs.model_size(choice, size)
    one_sum = FP32 * size.num_sequences * memories.fast_weights // max(1, memories.num_memories)
    console.print(
        f"memory sync: {micro_steps * memories.num_memories} all-reduces of {one_sum / MIB:.2f} MiB in forward, as "
        "many in backward (none in a group of one rank)",
        "exchange per optimizer step and rank:",
        sep="\n",
        soft_wrap=True,
    )
    rows = []
    for engine in engines_for(costs.world_size):
        sent = traffic(engine, memories, micro_steps)
        numbers = (sent.all_reduce, sent.reduce_scatter, sent.all_gather)
        rows.append([_marked(engine, choice.engine), *map(_size, numbers)])
    _print_table(console, ["engine", "all-reduce", "reduce-scatter", "all-gather"], rows)


def _print_fits(console: Console, costs: Costs, choice: Choice, size: StepSize) -> None:
    communicators = num_communicators(costs.world_size)
    console.print(
        f"of a device {100 * RESERVED_SHARE:.0f} % and {RESERVED_BYTES / GIB:.0f} GiB are left free, and "
        f"{_size(communicator_bytes(costs.world_size))} for {communicators} communicators of NCCL, assumed at "
        f"{BYTES_PER_COMMUNICATOR / MIB:.0f} MiB each",
        f"the cheapest change to fit these {size.frames_per_rank} frames per rank; how many frames fit as it is; how "
        "many at most, and with what:",
        sep="\n",
        soft_wrap=True,
    )
    for device_gb in DEVICE_SIZES_GB:
        budget = budget_of(device_gb, costs.world_size)
        fitting = cheapest_that_fits(costs, choice, size, budget)
        change = "no change is enough" if fitting is None else _overrides(choice, fitting)
        frames = costs.frames_that_fit(choice, size, budget)
        best, most = roomiest(costs, choice, size, budget)
        at_most = f" and {most} ({_overrides(choice, best)})" if most > frames else ""
        console.print(f"{device_gb:4d} GB: {change}; {frames}{at_most} frames", soft_wrap=True)


def _print_host(
    console: Console, costs: Costs, choice: Choice, size: StepSize, num_workers: int, ranks_per_node: int
) -> None:
    host = host_bytes(costs.model_size(choice, size), costs.states(choice, size), size, num_workers)
    console.print(
        f"a machine's own memory, shared by {ranks_per_node} ranks: {_size(ranks_per_node * host.most)}; each rank "
        f"{_size(host.process)} itself, {_size(host.readers)} for {num_workers} reading processes, "
        f"{_size(host.batches)} of batches, {_size(host.offloaded)} offloaded, and at the start {_size(host.loading)} "
        "of weights",
        soft_wrap=True,
    )


def _overrides(before: Choice, after: Choice) -> str:
    return " ".join(before.changes(after)) or "as it is"


def _print_table(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _marked(name: str, chosen: str) -> str:
    return f"{name} *" if name == chosen else name


def _size(size: float) -> str:
    return f"{size / GIB:.2f} G" if size >= GIB / 10 else f"{size / MIB:.2f} M"
