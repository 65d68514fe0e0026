"""Any number of ranks, chunks per rank and context groups gives the outputs and gradients of one process.

Four gloo ranks are started once and run every scenario (exactness_worker.py); the reference is one process that holds
whole sequences and knows no groups, no scaling rule and no padding. The wrong ways to differentiate or to scale go
through the same comparison and must fail it.
"""

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.parallel.conftest import RankResults
from tests.parallel.exactness_setup import (
    CHECKPOINTING,
    DDP_ON,
    DTYPES,
    HEADS,
    SCENARIOS,
    WORLD_SIZE,
    WRONG_ON,
    WRONG_VARIANTS,
    Scenario,
    build_model,
    chunk_images,
    chunk_loss,
    gradient_vector,
    of_chunk,
    scenario,
)

pytestmark = [pytest.mark.exactness, pytest.mark.timeout(300)]

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


@cache
def reference(case: Scenario, dtype_name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return predictions, whole gradient and memories' gradient of one process: the mean over sequences of the mean
    over a sequence's frames, each sequence as one nested list."""
    dtype = DTYPES[dtype_name]
    model = build_model(case.patch_encoder, dtype)
    predictions: dict[str, Tensor] = {}
    for sequence, counts in enumerate(case.groups):
        chunks = [chunk_images(case, sequence, chunk, dtype) for chunk in range(sum(counts))]
        output = model([chunks])
        total = sum(chunk_loss(of_chunk(output, chunk), sequence, chunk) for chunk in range(len(chunks)))
        (total / sum(len(chunk) for chunk in chunks) / len(case.groups)).backward()
        predictions |= {
            f"sequence{sequence}.chunk{chunk}.{name}": value.detach()
            for chunk in range(len(chunks))
            for name, value in of_chunk(output, chunk).items()
        }
    return predictions, gradient_vector(model), gradient_vector(model, memories_only=True)


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of the expected value."""
    return ((value.double() - expected.double()).norm() / expected.double().norm()).item()


@cache
def memory_mask(patch_encoder: str) -> Tensor:
    """Return which entries of a gradient vector belong to the memories."""
    model = build_model(patch_encoder, torch.float32)
    return torch.cat(
        [
            torch.full((parameter.numel(),), ".memory_units." in name)
            for name, parameter in model.named_parameters()
        ]
    )


def errors(ranks: RankResults, case: Scenario, dtype_name: str, key: str) -> dict[str, float]:
    """Return the relative error of the worst prediction, of the gradient and of the memories' gradient."""
    predictions, gradient, memory_gradient = reference(case, dtype_name)
    found = ranks.chunks(case, key)
    assert found.keys() == predictions.keys()
    of_ranks = ranks.gradients(case, key)
    mask = memory_mask(case.patch_encoder)
    return {
        "output": max(relative_error(found[name], predictions[name]) for name in predictions),
        "gradient": max(relative_error(one, gradient) for one in of_ranks),
        "memory gradient": max(relative_error(one[mask], memory_gradient) for one in of_ranks),
    }


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.name)
def test_ranks_equal_one_process(ranks, case, dtype, checkpointing):
    found = errors(ranks, case, dtype, f"{dtype}/{checkpointing}/right")
    print(found)
    assert max(found.values()) <= TOLERANCES[dtype], found


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("name", DDP_ON)
def test_ddp_equals_one_process(ranks, name, checkpointing):
    found = errors(ranks, scenario(name), "float64", f"float64/{checkpointing}/ddp")
    print(found)
    assert max(found.values()) <= TOLERANCES["float64"], found


@pytest.mark.parametrize("name", WRONG_ON)
def test_a_sum_under_way_equals_one_that_waits(ranks, name):
    """To the bit, predictions and gradients, with the same collective calls."""
    case = scenario(name)
    found, expected = (ranks.chunks(case, f"float64/none/{variant}") for variant in ("right", "waiting"))
    assert all(torch.equal(found[chunk], expected[chunk]) for chunk in expected)
    pairs = zip(
        *(ranks.gradients(case, f"float64/none/{variant}") for variant in ("right", "waiting")), strict=True
    )
    assert all(torch.equal(one, other) for one, other in pairs)
    for notes in ranks.notes:
        assert notes[f"{name}/float64/none/right"] == notes[f"{name}/float64/none/waiting"]


@pytest.mark.parametrize("mode", ["blocks", "segments"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.name)
def test_recomputation_changes_no_bit(ranks, case, dtype, mode):
    pairs = zip(*(ranks.gradients(case, f"{dtype}/{one}/right") for one in (mode, "none")), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("variant", WRONG_VARIANTS)
@pytest.mark.parametrize("name", WRONG_ON)
def test_wrong_variants_fail_the_comparison(ranks, name, variant):
    found = errors(ranks, scenario(name), "float64", f"float64/none/{variant}")
    print(found)
    assert found["output"] <= TOLERANCES["float64"], "outputs do not betray a wrong gradient"
    assert found["gradient"] > 1e-2, found


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.name)
def test_every_rank_of_a_group_makes_the_same_collective_calls(ranks, case, checkpointing):
    """One sum per memory forwards and one backwards (and the count of frames between), none in recomputation."""
    model = build_model(case.patch_encoder, torch.float32)
    sizes = [
        sum(matrix.numel() for matrix in (unit.w0, unit.w1, unit.w2))
        for unit in model.aggregator.memory_units.values()
    ]
    for rank in range(WORLD_SIZE):
        calls = ranks.notes[rank][f"{case.name}/float32/{checkpointing}/right"]
        expected = [*sizes, 1, *reversed(sizes)] if len(case.block_of(rank)) > 1 else []
        assert calls == expected


def test_the_memory_makes_chunks_depend_on_each_other():
    """Guards the comparison itself: a sequence's chunks on four ranks are not four sequences."""
    together = reference(scenario("4x1"), "float64")[0]
    alone = build_model("conv", torch.float64)
    with torch.no_grad():
        output = of_chunk(alone(chunk_images(scenario("4x1"), 0, 1, torch.float64)[None, None]), 0)
    found = {name: relative_error(output[name], together[f"sequence0.chunk1.{name}"]) for name in HEADS}
    assert min(found.values()) > 5 * TOLERANCES["float32"], found
    assert found["pose_encoding"] > 1e-2, found
