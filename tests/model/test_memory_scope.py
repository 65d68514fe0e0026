"""A memory for each chunk alone: no chunk sees another, and each gets what it would get as the only one."""

import pytest
import torch

from tests.model.tiny import IMAGE_HW, tiny_config, tiny_model

IMAGES = torch.rand(2, 3, 4, 3, *IMAGE_HW, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def refuse(gradient: torch.Tensor) -> torch.Tensor:
    raise AssertionError("a chunk's own memory asks nobody")


@pytest.fixture(scope="module")
def alone():
    model = tiny_model(memory_scope="chunk")
    for memory in model.aggregator.memory_units.values():
        memory.sum_over_context = refuse
    return model


def test_a_chunk_is_predicted_as_if_it_were_the_only_one(alone) -> None:
    """Against the ordinary memory, given one chunk at a time."""
    ordinary = tiny_model()
    assert ordinary.config.memory_scope == "sequence"
    together = alone(IMAGES)
    for sequence in range(2):
        for chunk in range(3):
            single = ordinary(IMAGES[sequence : sequence + 1, chunk : chunk + 1])
            for name in ("pose_encoding", "depth", "world_points_conf"):
                torch.testing.assert_close(
                    together[name][sequence, chunk], single[name][0, 0], rtol=1e-10, atol=1e-12
                )


def test_the_memory_still_does_something(alone) -> None:
    without = tiny_model(memory_layers=[])
    without.load_state_dict(
        {key: value for key, value in alone.state_dict().items() if "memory_units" not in key}
    )
    assert not torch.allclose(without(IMAGES).depth, alone(IMAGES).depth, rtol=1e-3)


def test_another_chunk_changes_nothing_here_and_something_in_a_sequence(alone) -> None:
    changed = IMAGES.clone()
    changed[0, 2] = changed[0, 2].flip(-1)
    for model, is_equal in ((alone, True), (tiny_model(), False)):
        before, after = model(IMAGES).depth[0, 0], model(changed).depth[0, 0]
        assert torch.equal(before, after) is is_equal


def test_lists_of_unequal_chunks(alone) -> None:
    nested = [[IMAGES[0, 0], IMAGES[0, 1, :3]], [IMAGES[1, 2]]]
    output = alone(nested)
    torch.testing.assert_close(output.depth[0][0], alone(IMAGES).depth[0, 0])
    torch.testing.assert_close(output.depth[1][0], alone(IMAGES).depth[1, 2])
    torch.testing.assert_close(output.depth[0][1], alone(IMAGES[:1, 1:2, :3]).depth[0, 0])


def test_padding_stays_finite_and_the_gradient_does_too() -> None:
    model = tiny_model(memory_scope="chunk", dtype=torch.float32).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    mask = torch.tensor([[True, True, False], [True, False, False]])
    images = torch.where(mask[:, :, None, None, None, None], IMAGES, torch.zeros(())).float()
    output = model(images, mask)
    assert torch.isfinite(output.depth).all()
    output.depth[mask].sum().backward()
    gradients = [value.grad for value in model.aggregator.memory_units.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_scope is not sequence or chunk"):
        tiny_config(memory_scope="rank")
