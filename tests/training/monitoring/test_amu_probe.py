"""What the probes see of the memories: known gates, gradients and updates; once each; nothing changes."""

from functools import partial

import pytest
import torch

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.training.monitoring.amu_probe import memory_keys, memory_units, watched_memories
from scal3r_train.training.monitoring.world_means import WorldMeans
from tests.training.tiny import NETWORK

CPU = torch.device("cpu")


@pytest.fixture
def model() -> Scal3RModel:
    return Scal3RModel(Scal3RConfig(**NETWORK)).train()


def images(num_sequences: int = 2, num_chunks: int = 3) -> torch.Tensor:
    return torch.rand(num_sequences, num_chunks, 4, 3, 28, 42, generator=torch.Generator().manual_seed(1))


def seen(model: Scal3RModel, *inputs: torch.Tensor, num_ranks: int = 1) -> dict[str, float]:
    means = WorldMeans(memory_keys(model))
    with watched_memories(model, means, num_ranks):
        output = model(*inputs)
    output.depth.sum().backward()
    return means.reduce(CPU)


def test_the_gate_of_a_new_memory_is_its_initial_one(model: Scal3RModel) -> None:
    """The output projection starts as a constant: 0.1 for every channel; here half of them are -0.3."""
    unit = memory_units(model)["1"]
    with torch.no_grad():
        unit.proj.bias[-8:] = -0.3
    values = seen(model, images())
    assert values["amu/0/gate"] == pytest.approx(0.1)
    assert values["amu/1/gate"] == pytest.approx(0.2)


def test_the_norm_is_that_of_what_travels_between_ranks(model: Scal3RModel) -> None:
    travelling = {}
    for layer, unit in memory_units(model).items():
        unit.sum_over_context = lambda fused, layer=layer: partial(travelling.setdefault, layer, fused)
    values = seen(model, images())
    for layer, fused in travelling.items():
        norms = [float((row.double() ** 2).sum() ** 0.5) for row in fused.detach()]
        assert values[f"amu/{layer}/gradient_norm"] == pytest.approx(sum(norms) / 2, rel=1e-5)


def test_no_gradient_still_updates_by_nothing(model: Scal3RModel) -> None:
    """Padding alone: the summed gradient is zero, so the weights keep direction and, by their norms, length."""
    values = seen(model, images(), torch.zeros(2, 3, dtype=torch.bool))
    assert values["amu/0/gradient_norm"] == 0
    assert values["amu/0/update_w1"] == pytest.approx(0, abs=1e-4)
    assert "amu/0/gate" not in values, "no real chunk was gated"


def test_an_update_is_relative_to_the_weights(model: Scal3RModel) -> None:
    """Columns keep their norm, so with angle a between old and new columns it is the rms of 2 sin(a / 2)."""
    unit, caught = memory_units(model)["0"], []
    original = unit.updated_weights
    unit.updated_weights = lambda gradient: caught.append(original(gradient)) or caught[-1]
    values = seen(model, images())
    for name in ("w0", "w1", "w2"):
        before, after = (
            dict(unit.named_parameters())[name].detach().double(),
            getattr(caught[0], name).double(),
        )
        cosine = torch.nn.functional.cosine_similarity(before.expand_as(after), after, dim=-2)
        weight = (before.norm(dim=-2) ** 2).expand_as(cosine)
        ratio = ((2 - 2 * cosine).clamp(min=0) * weight).sum((1, 2)).div(weight.sum((1, 2))).sqrt().mean()
        assert values[f"amu/0/update_{name}"] == pytest.approx(float(ratio.detach()), rel=1e-3)
        assert 0.01 < values[f"amu/0/update_{name}"] < 2


@pytest.mark.parametrize("mode", ["blocks", "segments"])
def test_recomputed_activations_are_not_seen_again(model: Scal3RModel, mode: str) -> None:
    expected = seen(model, images())
    model.set_activation_checkpointing(mode)
    counted, original = [], WorldMeans.add
    means = WorldMeans(memory_keys(model))
    means.add = lambda key, total, count: (counted.append(key), original(means, key, total, count))
    with watched_memories(model, means, 1):
        output = model(images())
    output.depth.sum().backward()
    assert sorted(counted) == sorted(memory_keys(model))
    assert means.reduce(CPU) == expected


def test_watching_changes_neither_output_nor_gradient(model: Scal3RModel) -> None:
    def run(num: int) -> list[torch.Tensor]:
        model.zero_grad()
        output = model(images())
        (output.depth.sum() + output.pose_encoding.sum()).backward()
        return [output.depth, output.pose_encoding, *(parameter.grad for parameter in model.parameters())]

    plain = [None if value is None else value.detach().clone() for value in run(0)]
    with watched_memories(model, WorldMeans(memory_keys(model)), 1):
        watched = run(1)
    for one, other in zip(plain, watched, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert all(unit.observer is None for unit in memory_units(model).values())


def test_padding_chunks_do_not_count_for_the_gate(model: Scal3RModel) -> None:
    unit = memory_units(model)["0"]
    with torch.no_grad():
        unit.proj.weight.normal_()  # the gate depends on the tokens
    full = images(1, 2)
    alone = seen(model, full[:, :1])
    padded = full.clone()
    padded[:, 1] = 0
    values = seen(model, padded, torch.tensor([[True, False]]))
    assert values["amu/0/gate"] == pytest.approx(alone["amu/0/gate"], rel=1e-5)


def test_a_sequence_counts_once_however_many_ranks_see_it(model: Scal3RModel) -> None:
    """Two ranks with the same sequence each add half a value of half a count: the mean of all stays a mean."""
    means = WorldMeans(memory_keys(model))
    with watched_memories(model, means, 2):
        model(images(1))
        model(images(1))
    with watched_memories(model, means, 1):
        model(images(2)[1:])
    values = means.reduce(CPU)
    first, second = seen(model, images(1)), seen(model, images(2)[1:])
    key = "amu/1/gradient_norm"
    assert values[key] == pytest.approx((first[key] + second[key]) / 2)
