"""The whole objective on one process: values, masks, graph. Averages over ranks: test_rank_averaging.py."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from scal3r_train.config import UserError, load_config
from scal3r_train.losses.objective import ONE_RANK, ObjectiveSettings, compute_terms, rank_loss, reduce_terms
from scal3r_train.losses.targets import build_targets

SETTINGS = ObjectiveSettings()
NAMES = [
    "camera_translation",
    "camera_rotation",
    "camera_fov",
    "depth_confidence",
    "depth_regression",
    *(f"depth_gradient_{stride}" for stride in (1, 2, 4, 8)),
    "points_confidence",
    "points_regression",
    *(f"points_normal_{stride}" for stride in (1, 2, 4)),
]


def alone(tensor):
    return tensor


def reduce_alone(terms, chunk_mask, average="chunk"):
    return reduce_terms(terms, average, chunk_mask, ONE_RANK)


@pytest.fixture
def targets(make_batch):
    return build_targets(make_batch(), "chunk", alone)


def test_names_and_weights_are_stable(targets, perfect_output):
    terms = compute_terms(perfect_output(targets), targets, SETTINGS)
    assert list(terms) == NAMES
    assert [terms[name].weight for name in NAMES] == [5, 5, 2.5, 1, 1, *[0.25] * 4, 1, 1, *[1 / 3] * 3]


@pytest.mark.parametrize("average", ["chunk", "sequence"])
def test_zero_at_the_truth(targets, perfect_output, average):
    terms = compute_terms(perfect_output(targets), targets, SETTINGS)
    loss, logs = reduce_alone(terms, targets.chunk_mask, average)
    assert list(logs) == [*NAMES, "loss"]
    for name, value in logs.items():
        assert value.item() == pytest.approx(0, abs=1e-9), name
    assert loss.item() == logs["loss"].item()


def test_known_error_has_its_known_loss(targets, perfect_output):
    exact = perfect_output(targets)
    output = replace(
        exact,
        depth=exact.depth + 0.25,
        world_points=exact.world_points + torch.tensor([0.3, 0, 0.4], dtype=torch.float64),
    )
    terms = compute_terms(output, targets, SETTINGS)
    loss, logs = reduce_alone(terms, targets.chunk_mask)
    expected = {
        "depth_confidence": 0.25,
        "depth_regression": 0.25,
        "points_confidence": 0.5,
        "points_regression": 0.5,
    }
    for name in NAMES:
        assert logs[name].item() == pytest.approx(expected.get(name, 0), abs=1e-8), name
    assert loss.item() == pytest.approx(1.5, abs=1e-7)


def test_gradient_leads_back_to_the_truth(targets, perfect_output):
    exact = perfect_output(targets)
    noise = torch.randn(exact.depth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = replace(exact, depth=exact.depth + 0.1 * noise).with_gradient()
    loss, _ = reduce_alone(compute_terms(start, targets, SETTINGS), targets.chunk_mask)
    loss.backward()
    step = replace(start, depth=start.depth - 1e-4 * start.depth.grad)
    closer, _ = reduce_alone(compute_terms(step, targets, SETTINGS), targets.chunk_mask)
    predicted = -1e-4 * start.depth.grad.square().sum()
    assert (closer - loss).item() == pytest.approx(predicted.item(), rel=1e-6)


def test_losses_do_not_change_with_the_unit_of_length(make_batch, perfect_output):
    batch = make_batch()
    extrinsics = batch.extrinsics.clone()
    extrinsics[..., 3] *= 7
    targets = build_targets(batch, "chunk", alone)
    scaled = build_targets(replace(batch, depth=batch.depth * 7, extrinsics=extrinsics), "chunk", alone)
    noisy = perfect_output(targets)
    noisy = replace(noisy, depth=noisy.depth * 1.1, world_points=noisy.world_points * 0.9)
    losses = [
        reduce_alone(compute_terms(noisy, truth, SETTINGS), truth.chunk_mask)[0]
        for truth in (targets, scaled)
    ]
    torch.testing.assert_close(*losses)


def test_invalid_pixels_and_padding_chunks_reach_neither_loss_nor_gradient(make_batch, perfect_output):
    batch = replace(make_batch(), chunk_mask=torch.tensor([[True, False]]))
    targets = build_targets(batch, "chunk", alone)
    exact = perfect_output(targets)
    clean = replace(exact, depth=exact.depth + 0.1, world_points=exact.world_points + 0.1).with_gradient()
    dirty = clean.with_gradient()
    for name, value in vars(dirty).items():
        invalid = ~targets.chunk_mask.reshape(1, 2, *[1] * (value.dim() - (3 if "stages" in name else 2)))
        if "stages" not in name:
            invalid = ~targets.mask[..., None] if value.dim() == 6 else ~targets.mask
        value.data.masked_fill_(invalid.expand_as(value), torch.nan)
    losses = []
    for output in (clean, dirty):
        loss, _ = reduce_alone(compute_terms(output, targets, SETTINGS), targets.chunk_mask)
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    for name, value in vars(dirty).items():
        assert torch.equal(value.grad, getattr(clean, name).grad), name
    assert dirty.depth.grad[~targets.mask].abs().max() == 0
    assert dirty.depth.grad[targets.mask].abs().max() > 0


@pytest.mark.parametrize("average", ["chunk", "sequence"])
def test_without_supervision_every_output_gets_an_exact_zero_gradient(make_batch, perfect_output, average):
    batch = make_batch()
    batch = replace(batch, chunk_mask=torch.zeros_like(batch.chunk_mask))
    targets = build_targets(batch, "chunk", alone)
    output = replace(perfect_output(targets), depth=targets.depth + 3).with_gradient()
    loss, _ = reduce_alone(compute_terms(output, targets, SETTINGS), targets.chunk_mask, average)
    loss.backward()
    assert loss.item() == 0
    for name, value in vars(output).items():
        assert value.grad.abs().max() == 0, name


@pytest.mark.parametrize(
    "name", ["pose_encoding_stages", "depth", "depth_conf", "world_points", "world_points_conf"]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_prediction_is_seen_in_the_loss(make_batch, perfect_output, name, bad):
    targets = build_targets(make_batch(hw=(24, 32)), "chunk", alone)
    output = perfect_output(targets)
    where = targets.mask.nonzero()[40].tolist()
    value = getattr(output, name)
    index = (0, 0, 0, 0) if "stages" in name else tuple(where)
    value.data[index] = bad
    loss, logs = reduce_alone(compute_terms(output, targets, SETTINGS), targets.chunk_mask)
    assert not loss.isfinite()
    assert not logs["loss"].isfinite()


def test_switched_off_heads_and_zero_weights_are_absent(targets, perfect_output):
    output = replace(perfect_output(targets), world_points=None, world_points_conf=None)
    assert list(compute_terms(output, targets, SETTINGS)) == NAMES[:9]
    no_depth = load_config(ObjectiveSettings, None, ["depth.weight=0"])
    assert list(compute_terms(output, targets, no_depth)) == NAMES[:3]
    nothing = load_config(ObjectiveSettings, None, ["depth.weight=0", "camera.weight=0"])
    with pytest.raises(UserError, match="nothing to learn from"):
        compute_terms(output, targets, nothing)


def test_strides_are_a_recipe_key(targets, perfect_output):
    settings = load_config(
        ObjectiveSettings, None, ["depth.gradient_strides=[1,3]", "points.normal_strides=[]"]
    )
    terms = compute_terms(perfect_output(targets), targets, settings)
    assert [name for name in terms if "gradient" in name or "normal" in name] == [
        "depth_gradient_1",
        "depth_gradient_3",
    ]
    assert terms["depth_gradient_3"].weight == 0.5
    with pytest.raises(UserError, match="gradient_strides"):
        load_config(ObjectiveSettings, None, ["depth.gradient_strides=[0]"])


def test_half_precision_outputs_under_autocast_are_compared_in_float32(make_batch, perfect_output):
    targets = build_targets(make_batch(dtype=torch.float32), "chunk", alone)
    narrow = {name: value.detach().bfloat16() for name, value in vars(perfect_output(targets)).items()}
    output = replace(perfect_output(targets), **narrow)
    wide = replace(output, **{name: value.float() for name, value in narrow.items()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compute_terms(output, targets, SETTINGS)
    for name, entry in compute_terms(wide, targets, SETTINGS).items():
        assert inside[name].term.total.dtype == torch.float32
        assert torch.equal(inside[name].term.total, entry.term.total), name


@pytest.mark.parametrize("average", ["chunk", "sequence"])
def test_the_sum_of_parts_over_their_number_is_the_loss(targets, perfect_output, average):
    """What validation adds up over windows and ranks is what training minimises."""
    perfect = perfect_output(targets)
    output = dataclasses.replace(perfect, depth=perfect.depth * 1.3)
    terms = compute_terms(output, targets, SETTINGS)
    loss, _ = reduce_alone(terms, targets.chunk_mask, average)
    total, number = rank_loss(terms, average, targets.chunk_mask, alone)
    sequences, chunks = len(targets.chunk_mask), int(targets.chunk_mask.sum())
    assert float(number) == (chunks if average == "chunk" else sequences)
    assert float(total / number) == pytest.approx(loss.item(), rel=1e-5)
    assert abs(loss.item()) > 0.1 and not total.requires_grad
