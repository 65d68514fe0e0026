"""Activation checkpointing: the same gradients to the bit, what runs twice, and where parameters are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scal3r_train.model.amu import keep_local
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.model.tiny import random_images, scalar, tiny_model

NESTED = [[random_images(3), random_images(2, seed=1)]]
TENSOR = random_images(2, 2, 3)
MASK = torch.tensor([[True, True], [True, False]])


def gradients_with(
    model: Scal3RModel, images: Tensor | list, mask: Tensor | None = None
) -> dict[str, Tensor]:
    model.zero_grad()
    scalar(model(images, mask)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def all_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def count_calls(model: Scal3RModel) -> Counter[str]:
    """Count how often the first layer of everything that can be recomputed runs, and the updates that must not."""
    calls: Counter[str] = Counter()
    aggregator = model.aggregator
    blocks = [*aggregator.patch_embed.blocks, *aggregator.frame_blocks, *aggregator.global_blocks]
    watched = {f"block {index}": block.norm1 for index, block in enumerate(blocks)}
    watched |= {f"camera {index}": block.norm1 for index, block in enumerate(model.camera_head.trunk)}
    watched |= {"depth": model.depth_head.norm, "points": model.point_head.norm}
    for layer, unit in aggregator.memory_units.items():
        watched |= {f"memory {layer} gradient": unit.k_norm, f"memory {layer} queries": unit.q_norm}
        watched |= {f"memory {layer} answers": unit.o_norm}
        unit.register_forward_hook(
            lambda _m, inputs, _y, layer=layer: calls.update(
                {f"memory {layer} update": inputs[0] == "update"}
            )
        )
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, _y, name=name: calls.update([name]))
    return calls


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "mode", ["blocks", "segments", "gradient_checkpointing_enable", "activation_checkpointing_enable"]
)
@pytest.mark.parametrize("images", [NESTED, TENSOR], ids=["nested", "tensor"])
def test_gradients_are_identical_and_all_but_the_update_runs_twice(mode, images):
    model = tiny_model(patch_encoder="dinov2").train()
    calls = count_calls(model)
    mask = MASK if isinstance(images, Tensor) else None
    expected = gradients_with(model, images, mask)
    once = dict(calls)
    if mode in ("blocks", "segments"):
        model.set_activation_checkpointing(mode)
    elif hasattr(model, mode):
        getattr(model, mode)()
    else:
        pytest.skip("this transformers does not have that name")
    calls.clear()
    assert all_equal(gradients_with(model, images, mask), expected)
    assert calls == {name: count if "update" in name else 2 * count for name, count in once.items()}
    assert once["memory 1 update"] == once["memory 3 update"] == 1
    model.set_activation_checkpointing("none")
    calls.clear()
    assert all_equal(gradients_with(model, images, mask), expected)
    assert calls == once


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reentrant_checkpointing_is_refused_in_one_line_and_changes_nothing():
    model = tiny_model().train()
    with pytest.raises(ValueError, match=r"^Scal3R cannot use reentrant checkpointing: [^\n]+$"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    assert not any(block.gradient_checkpointing for block in model.aggregator.frame_blocks)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert all(block.gradient_checkpointing for block in model.aggregator.frame_blocks)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_protocol_of_transformers_leaves_no_segments_behind():
    model = tiny_model().train()
    for change in (model.gradient_checkpointing_enable, model.gradient_checkpointing_disable):
        model.set_activation_checkpointing("segments")
        change()
        assert not model.aggregator.recomputes_segments
        flags = {block.gradient_checkpointing for block in model.aggregator.frame_blocks}
        assert flags == {change == model.gradient_checkpointing_enable}


@pytest.mark.parametrize("mode", ["none", "blocks", "segments"])
def test_recomputation_repeats_no_sum_over_the_context(mode):
    model = tiny_model().train()
    sums = []
    for unit in model.aggregator.memory_units.values():
        unit.sum_over_context = lambda gradient: sums.append(1) or keep_local(gradient)
    model.set_activation_checkpointing(mode)
    gradients_with(model, TENSOR)
    assert len(sums) == len(model.aggregator.memory_units)


class Storages(TorchDispatchMode):
    """Notes every storage that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def live_bytes(self) -> int:
        return sum(size for storage, size in self.made.values() if not storage.expired())


def kept_bytes(model: Scal3RModel, images: Tensor) -> int:
    """Return what is alive between forward and backward, without parameters and images."""
    with Storages() as storages:
        loss = scalar(model(images, heads=["camera"]))
    assert loss.requires_grad
    return storages.live_bytes()


@pytest.mark.parametrize("mode", ["blocks", "segments"])
def test_gradients_are_identical_when_chunks_pass_one_by_one(mode):
    model = tiny_model(patch_encoder="dinov2").train()
    together = gradients_with(model, TENSOR, MASK)
    model.chunks_per_pass = 1
    expected = gradients_with(model, TENSOR, MASK)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradient, together[name], rtol=1e-9, atol=1e-9)
    model.set_activation_checkpointing(mode)
    assert all_equal(gradients_with(model, TENSOR, MASK), expected)


def test_each_mode_keeps_less_than_the_one_before():
    model = tiny_model(
        num_layers=12, tap_layers=[0, 1, 2, 11], memory_layers=[5, 11], memory_expansion=1
    ).train()
    kept = {}
    for mode in ("none", "blocks", "segments"):
        model.set_activation_checkpointing(mode)
        kept[mode] = kept_bytes(model, random_images(1, 4, 6))
    assert kept["none"] > 5 * kept["blocks"]
    tokens = 4 * 6 * (3 + 6) * 16 * 8
    # The inputs of 24 blocks and of 2 memories become those of 3 segments, of which the first is no block's own.
    assert kept["blocks"] - kept["segments"] > 20 * tokens, kept


@contextmanager
def guarded_parameters(model: nn.Module) -> Iterator[None]:
    """Let a parameter be read only while its own module is being called, as ZeRO-3 gathers them."""
    running: Counter[nn.Module] = Counter()

    class Guarded(dict):
        def __init__(self, owner: nn.Module) -> None:
            super().__init__(owner._parameters)
            self.owner = owner

        def __getitem__(self, name: str) -> nn.Parameter:
            value = super().__getitem__(name)
            assert value is None or running[self.owner], (
                f"{name} of {type(self.owner).__name__} read outside its call"
            )
            return value

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(lambda m, _i: running.update([m])))
        handles.append(
            module.register_forward_hook(lambda m, _i, _o: running.subtract([m]), always_call=True)
        )
        module.__dict__["_parameters"] = Guarded(module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in model.modules():
            module.__dict__["_parameters"] = dict(module._parameters.items())


@pytest.mark.parametrize("encoder", ["dinov2", "conv", "correlation", "direct"])
@pytest.mark.parametrize("mode", ["none", "blocks", "segments"])
def test_parameters_are_read_inside_their_module_s_own_call_only(mode, encoder):
    model = tiny_model(patch_encoder=encoder).train()
    expected = gradients_with(model, TENSOR)
    model.set_activation_checkpointing(mode)
    model.zero_grad()
    with guarded_parameters(model):
        with pytest.raises(AssertionError, match="camera_token of Aggregator read outside its call"):
            model.aggregator.camera_token.sum()
        scalar(model(TENSOR)).backward()
    assert all_equal({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, expected)
