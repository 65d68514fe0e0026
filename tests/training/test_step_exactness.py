"""Training on two ranks is training on one: losses, gradient norms and weights of real runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scal3r_train.data import dataset
from scal3r_train.data.sampling.plan import plan_step
from scal3r_train.data.sampling.sources import open_sources
from tests.tolerance import rounding
from tests.training import tiny
from tests.training.conftest import Ranks

pytestmark = pytest.mark.exactness
# The longest sums are losses: over the pixels of 4 chunks of 4 frames, in one order on one process and in another on
# two; each of the steps starts from the weights of the one before.
TOLERANCE = rounding(torch.float32, 4 * 4 * 28 * 42, repeats=tiny.NUM_STEPS)
WEIGHT_TOLERANCE = 1e-5
OneProcess = Callable[..., Path]


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def split(line: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a step's numbers without its context groups, and apart what the memories did."""
    memories = {key: value for key, value in line.items() if key.startswith("amu/")}
    shared = ("plan/groups", "plan/largest_group", *memories)
    return {key: value for key, value in line.items() if key not in shared}, memories


def unnamed(line: dict[str, Any]) -> dict[str, Any]:
    """A line whose counts of frames do not tell the names of the index files."""
    frames = {key for key in line if key.startswith("data/frames/")}
    others = {key: value for key, value in line.items() if key not in frames}
    return others | {"data/frames": sum(line[key] for key in frames)}


def assert_same_run(folder: Path, reference: Path, tolerance: float = TOLERANCE) -> None:
    """Every number of every step, and the final weights, to a relative tolerance."""
    lines, expected = tiny.steps(folder), tiny.steps(reference)
    assert len(lines) == len(expected) > 2
    for line, other in zip(lines, expected, strict=True):
        (numbers, memories), (other_numbers, other_memories) = split(unnamed(line)), split(unnamed(other))
        assert numbers == pytest.approx(other_numbers, rel=tolerance, abs=1e-7)
        assert memories == pytest.approx(other_memories, rel=10 * tolerance)  # sums of thousands in float32
    ours, theirs = flat(tiny.weights(folder)), flat(tiny.weights(reference))
    assert ((ours - theirs).norm() / theirs.norm()).item() < WEIGHT_TOLERANCE


def test_chunks_of_one_sequence_on_two_ranks(ranks: Ranks, one_process: OneProcess) -> None:
    reference = one_process()
    assert_same_run(ranks.folder / "shared", reference)
    moved = flat(tiny.weights(reference)) - flat(first_weights(reference))
    assert moved.norm() > 100 * WEIGHT_TOLERANCE * flat(tiny.weights(reference)).norm()


def first_weights(run: Path) -> dict[str, Tensor]:
    """Weights as a run's recipe initialises them."""
    from accelerate.utils import set_seed

    from scal3r_train.recipe import load_training_recipe
    from scal3r_train.train import build_model

    recipe = load_training_recipe(run / "recipe.yaml")
    set_seed(recipe.seed)
    return {name: value.detach() for name, value in build_model(recipe.model).state_dict().items()}


@pytest.mark.parametrize("mode", ["blocks", "segments"])
def test_checkpointed_activations_change_nothing(ranks: Ranks, one_process: OneProcess, mode: str) -> None:
    assert_same_run(ranks.folder / mode, ranks.folder / "shared")
    assert_same_run(one_process({"model.activation_checkpointing": mode}), one_process())


@pytest.mark.parametrize("average", ["chunk", "sequence"])
def test_a_sequence_per_rank_with_unequal_chunks(
    ranks: Ranks, one_process: OneProcess, uneven_towns: Path, average: str
) -> None:
    changes = {
        "curriculum.sequences_per_group": 2,
        "curriculum.chunks_per_rank": {"4": 1.0},
        "losses.average": average,
        "losses.normalization": average,
    }
    assert_same_run(ranks.folder / f"separate_{average}", one_process(changes, uneven_towns))


def test_windows_of_that_test_are_unequal(uneven_towns: Path) -> None:
    """Otherwise the test above would not see a wrong scale."""
    recipe = tiny.recipe(
        uneven_towns,
        uneven_towns.parent,
        {"curriculum.sequences_per_group": 2, "curriculum.chunks_per_rank": {"4": 1.0}},
    )
    sources = open_sources(recipe.data)[1]
    plans = [plan_step(recipe.curriculum, sources, recipe.seed, step, 1) for step in range(tiny.NUM_STEPS)]
    counts = [[window.num_chunks for window in plan.groups[0].windows] for plan in plans]
    assert any(first != second for first, second in counts), counts


def test_accumulation_on_ranks(ranks: Ranks, one_process: OneProcess) -> None:
    changes = {"optim.accumulation_steps": 2, "optim.num_steps": 3}
    assert_same_run(ranks.folder / "accumulated", one_process(changes))


def test_accumulating_two_plans_is_one_step_of_both(
    one_process: OneProcess, uneven_towns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the two hold different numbers of chunks."""
    changes: dict[str, Any] = {"optim.num_steps": 3, "validation.every": 0}
    accumulated = one_process(changes | {"optim.accumulation_steps": 2}, uneven_towns)

    def both(curriculum: Any, sources: Any, seed: int, step: int, world_size: int) -> Any:
        first, second = (plan_step(curriculum, sources, seed, 2 * step + i, world_size) for i in (0, 1))
        assert first.shape == second.shape
        windows = first.groups[0].windows + second.groups[0].windows
        return dataset.StepPlan(step, first.shape, (type(first.groups[0])(range(1), windows),))

    monkeypatch.setattr(dataset, "plan_step", both)
    together = one_process(changes | {"name": "together"}, uneven_towns)
    assert_same_run(accumulated, together)


def test_bfloat16_trains_nearly_the_same(one_process: OneProcess) -> None:
    exact, rounded = one_process(), one_process({"parallel.precision": "bf16"})
    for line, other in zip(tiny.steps(rounded), tiny.steps(exact), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=0.03)
        assert line["loss"] != other["loss"]
    weights = tiny.weights(rounded)
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_other_seeds_train_otherwise(one_process: OneProcess) -> None:
    first, other = one_process(), one_process({"seed": 4})
    assert tiny.steps(first)[0]["loss"] != pytest.approx(tiny.steps(other)[0]["loss"], rel=1e-3)
