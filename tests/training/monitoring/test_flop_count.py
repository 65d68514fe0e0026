"""Work of a step: counts of a known plan, operations against closed forms, peaks of devices."""

import pytest
import torch

from scal3r_train.data.sampling.curriculum import Resolution
from scal3r_train.data.sampling.plan import GroupPlan, StepPlan, StepShape, Window
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import build_on_meta
from scal3r_train.model.lora import LoraSettings, add_adapters, is_adapter
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.training.monitoring.flop_count import (
    StepFlops,
    counted_flops,
    peak_flops,
    peak_flops_by_name,
    step_work,
)
from scal3r_train.training.monitoring.product_flops import ProductFlops, Work
from tests.training.tiny import NETWORK


def window(num_chunks: int) -> Window:
    return Window(0, 0, 0, 1, False, num_chunks, 0)


def plan(*groups: tuple[int, tuple[int, ...]], chunk_size: int = 4) -> StepPlan:
    """Return a plan of groups given as (ranks, chunks per window), 28 x 42 pixels."""
    shape = StepShape(chunk_size, 1, 2, Resolution(height=28, width=42))
    first, made = 0, []
    for num_ranks, chunks in groups:
        made.append(GroupPlan(range(first, first + num_ranks), tuple(map(window, chunks))))
        first += num_ranks
    return StepPlan(0, shape, tuple(made))


def test_counts_of_a_step_with_padding_and_accumulation() -> None:
    """5 + 3 + 1 real chunks, then 2 of 3 frames; 2 x 3 patches and 5 special tokens a frame."""
    work = step_work([plan((4, (5, 3)), (1, (1,))), plan((5, (2,)), chunk_size=3)], Scal3RConfig(**NETWORK))
    assert (work.num_groups, work.largest_group, work.num_sequences) == (3, 5, 4)
    assert (work.num_chunks, work.num_frames) == (11, 9 * 4 + 2 * 3)
    assert work.num_tokens == work.num_frames * 11


# Half of the seconds of a count are the small operations of the camera head.
LIGHT = NETWORK | {"camera_head": False}


def flops(network: dict, plan: StepPlan) -> float:
    config = Scal3RConfig(**network)
    return StepFlops(config, trainable(config)).of_plan(plan)


def trainable(config: Scal3RConfig) -> list[str]:
    return [name for name, value in build_on_meta(config).named_parameters() if value.requires_grad]


DENSE = {"camera_head": False}
CAMERA = {"depth_head": False, "point_head": False}
CASES = {
    "camera head": (CAMERA, (1, 1, 3, 3, 28, 42), ""),
    "dense heads, two chunks": (DENSE, (1, 2, 3, 3, 42, 28), ""),
    "no memories": (CAMERA | {"memory_layers": []}, (1, 2, 3, 3, 28, 42), ""),
    "memories of chunks": (CAMERA | {"memory_scope": "chunk", "memory_heads": 2}, (1, 2, 2, 3, 28, 28), ""),
    "DINOv2": (
        CAMERA | {"patch_encoder": "dinov2", "encoder_layers": 2, "encoder_heads": 2},
        (2, 1, 2, 3, 42, 42),
        "",
    ),
    "correlation": (CAMERA | {"patch_encoder": "correlation"}, (1, 1, 3, 3, 28, 42), ""),
    "memories alone": (DENSE, (1, 1, 3, 3, 28, 42), "memory_units"),
    "heads alone": (DENSE, (1, 1, 2, 3, 28, 28), "_head."),
}


@pytest.mark.parametrize("name", CASES)
def test_closed_form_is_what_torch_counts(name: str) -> None:
    changes, shape, part = CASES[name]
    config = Scal3RConfig(**NETWORK | changes)
    trained = [parameter for parameter in trainable(config) if part in parameter]
    size = config.patch_size
    counted = counted_flops(config, shape, trained)
    work = Work(shape[1], shape[2], shape[4] // size, shape[5] // size)
    assert shape[0] * ProductFlops(config, trained).count(work) == counted


@pytest.mark.parametrize("part", ["memory_units", "nothing else"])
def test_closed_form_of_adapters_is_what_torch_counts(part: str) -> None:
    pytest.importorskip("peft")
    changes, shape, _ = CASES["DINOv2"]
    config, lora = Scal3RConfig(**NETWORK | changes), LoraSettings(rank=3)
    model = build_on_meta(config)
    with torch.device("meta"):
        add_adapters(model, lora)
    trained = [name for name, _ in model.named_parameters() if is_adapter(name) or part in name]
    work = Work(shape[1], shape[2], shape[4] // 14, shape[5] // 14)
    count = shape[0] * ProductFlops(config, trained, adapter_rank=model.adapter_rank).count(work)
    assert count == counted_flops(config, shape, trained, lora)
    assert count < shape[0] * ProductFlops(config, trainable(config)).count(work)


def test_heads_that_do_not_run_count_nothing() -> None:
    config = Scal3RConfig(**NETWORK)
    trained = [name for name in trainable(config) if not name.startswith(("depth_head", "point_head"))]
    without = Scal3RConfig(**NETWORK | CAMERA)
    work = Work(2, 3, 2, 3)
    alone = ProductFlops(config, trained, ["camera"]).count(work)
    assert alone == ProductFlops(without, trained).count(work) < ProductFlops(config, trained).count(work)


def test_full_size_takes_no_time() -> None:
    """Twenty shapes; counted by torch, each took half a minute of rank 0 while the others waited."""
    config = Scal3RConfig()
    with torch.device("meta"):
        trained = [name for name, _ in Scal3RModel(config).named_parameters()]
    counted = []
    products = ProductFlops(config, trained)
    add, products._add = products._add, lambda *given: (counted.append(1), add(*given))[1]  # type: ignore[method-assign]
    assert products.count(Work(1, 24, 37, 37)) > 1e14
    assert len(counted) < 2000


def test_attention_over_a_chunk_is_counted_as_by_hand() -> None:
    """All but the global attention is linear in frames: F(8) - 2 F(4) = per layer, 4 (N8^2 - 2 N4^2) C in forward and
    twice that in backward: two products there, a gradient for each of their four factors.
    """
    network = LIGHT | {"memory_layers": []}
    surplus = flops(network, plan((1, (1,)), chunk_size=8)) - 2 * flops(network, plan((1, (1,))))
    forward = 2 * 4 * ((8 * 11) ** 2 - 2 * (4 * 11) ** 2) * 16
    assert surplus == 3 * forward


def test_chunks_add_up_and_an_update_is_once_per_sequence() -> None:
    one, two, apart = (flops(LIGHT, plan((1, chunks))) for chunks in ((1,), (2,), (1, 1)))
    assert apart == 2 * one
    # Newton-Schulz of three matrices [16, 32] in each of 2 memories: 5 times x x^T, its square, and the product with x.
    forward = 2 * 3 * 5 * 2 * (16 * 16 * 32 + 16**3 + 16 * 16 * 32)
    assert apart - two == 3 * forward


def test_counting_draws_no_random_numbers_and_takes_no_memory() -> None:
    before = torch.get_rng_state()
    large = LIGHT | {"hidden_size": 32768, "memory_layers": []}  # 100 GB of parameters
    config = Scal3RConfig(**large)
    assert StepFlops(config, ["aggregator.camera_token"]).of_plan(plan((1, (1,)))) > 1e12
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA L40S", 362),
    ],
)
def test_known_devices(name: str, tflops: float) -> None:
    assert peak_flops_by_name(name) == pytest.approx(1e12 * tflops)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA RTX A4000",
        "NVIDIA L40",
        "Some Future Device",
    ],
)
def test_no_peak_is_made_up(name: str) -> None:
    assert peak_flops_by_name(name) is None
    assert peak_flops(torch.device("cpu")) is None
