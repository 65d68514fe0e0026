"""A run with stages: its data and rates change at the optimizer step they say, and it resumes exactly."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import tiny

STAGES: dict[str, Any] = {
    "optim.accumulation_steps": 2,
    "optim.num_steps": 5,
    "curriculum.stages": [
        {"until": 2, "chunks_per_rank": {"1": 1.0}},
        {"until": 3, "chunk_size": {"3": 1.0}},
        {"chunks_per_rank": {"2": 1.0}, "overlap": {"2": 1.0}},
    ],
    "optim.stages": [{"until": 3, "backbone_lr": 2e-3}, {"memory_lr": 5e-4}],
    "validation.every": 0,
}
SHAPES = [(1, 4)] * 2 + [(4, 3)] + [(2, 4)] * 2  # chunks and frames of each optimizer step


def train_noting_shapes(
    folder: Path, index: Path, stop_after: int | None = None
) -> list[list[tuple[int, int]]]:
    """Train and return, for every step, chunks and frames of what each micro-step was given."""
    seen: list[list[tuple[int, int]]] = []
    from scal3r_train.training import trainer

    original = trainer.train_step

    def step(engine: Any, groups: Any, micro_steps: Any, *rest: Any) -> Any:
        shapes = [tuple(micro.batch.images.shape[1:3]) for micro in micro_steps]
        assert shapes == [
            (micro.plan.shape.chunks_per_rank, micro.plan.shape.chunk_size) for micro in micro_steps
        ]
        seen.append(shapes)
        return original(engine, groups, micro_steps, *rest)

    killed = nullcontext() if stop_after is None else tiny.killed_after(stop_after)
    with tiny.replaced("train_step", step), killed:
        tiny.train(tiny.recipe(index, folder, STAGES))
    return seen


def test_a_killed_staged_run_resumes_exactly(
    one_process: Callable[..., Path], towns: Path, tmp_path: Path
) -> None:
    first = train_noting_shapes(tmp_path, towns, stop_after=3)
    assert first == [[shape] * 2 for shape in SHAPES[:3]]
    rest = train_noting_shapes(tmp_path, towns)
    assert rest == [[shape] * 2 for shape in SHAPES[2:]]  # from the checkpoint after two steps
    whole = one_process(STAGES)
    assert tiny.metrics(tmp_path) == tiny.metrics(whole)
    weights, expected = tiny.weights(tmp_path), tiny.weights(whole)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_rates_of_each_step(one_process: Callable[..., Path]) -> None:
    """Warm-up over two steps, then a cosine over three, under peaks that change at step 3."""
    lines = tiny.steps(one_process(STAGES))
    shape = [0, 0.5, 1, 0.75, 0.25]
    backbone = [peak * value for peak, value in zip([2e-3] * 3 + [1e-3] * 2, shape, strict=True)]
    memory = [peak * value for peak, value in zip([1e-3] * 3 + [5e-4] * 2, shape, strict=True)]
    assert [line["lr/backbone_decayed"] for line in lines] == pytest.approx(backbone)
    assert [line["lr/memory_plain"] for line in lines] == pytest.approx(memory)
