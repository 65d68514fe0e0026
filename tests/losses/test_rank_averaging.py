"""The engine's average of the ranks' gradients is the gradient of one plain mean, whatever the ranks hold.

A fake world runs every rank in a thread; sums meet at a barrier, as collectives do. The model is one gain and
one offset per output, so that its gradient sees every element.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch

from scal3r_train.losses.depth_and_points import RegressionSettings
from scal3r_train.losses.objective import ONE_RANK, ObjectiveSettings, RankSums, compute_terms, reduce_terms
from scal3r_train.losses.targets import build_targets

pytestmark = pytest.mark.exactness

FIELDS = ("images", "depth", "extrinsics", "intrinsics", "chunk_mask")
FILTER = {"outlier_quantile": 0.9, "outlier_min_elements": 50}


@dataclass(frozen=True)
class Group:
    """A context group: B sequences (by seed) and, for each of its ranks, [first, last) real chunks."""

    num_sequences: int
    chunks: tuple[tuple[int, int], ...]
    seed: int

    @property
    def num_chunks(self):
        return self.chunks[-1][1]


# 6 ranks (2 + 1 + 3) with K = 3 slots each: unequal chunks, padding, one rank with padding only.
MIXED = (
    Group(2, ((0, 3), (3, 5)), seed=1),
    Group(1, ((0, 2),), seed=2),
    Group(2, ((0, 1), (1, 4), (4, 4)), seed=3),
)
ALONE = (Group(1, ((0, 3),), seed=1), Group(1, ((0, 1),), seed=2))
ONE_GROUP = (Group(1, ((0, 3), (3, 6), (6, 7), (7, 8)), seed=5),)


class FakeSum:
    """An all-reduce over `num_ranks` threads: everybody brings a tensor, everybody leaves with the sum."""

    def __init__(self, num_ranks):
        self.barrier, self.slots = threading.Barrier(num_ranks), [None] * num_ranks

    def for_rank(self, rank):
        def sum_over(tensor):
            assert not tensor.requires_grad
            self.slots[rank] = tensor
            self.barrier.wait(timeout=20)
            result = sum(self.slots[1:], self.slots[0])
            self.barrier.wait(timeout=20)
            return result

        return sum_over


def alone(tensor):
    return tensor


def settings(scope, average):
    base = ObjectiveSettings(normalization=scope, average=average, min_valid_pixels=1)
    return base.model_copy(
        update={
            "depth": base.depth.model_copy(update=FILTER),
            "points": base.points.model_copy(update=FILTER),
        }
    )


def whole_batch(make_batch, group):
    batch = make_batch(num_sequences=group.num_sequences, num_chunks=group.num_chunks, seed=group.seed)
    depth = batch.depth * torch.linspace(0.5, 2, group.num_chunks).double()[:, None, None, None]
    depth[:, 0, 0] = 0  # unequal numbers of supervised pixels
    return replace(batch, depth=depth)


def rank_batch(batch, first, last, num_slots):
    """Chunks [first, last) in num_slots slots; the rest is padding that holds copies of the first chunk."""
    index = torch.tensor([*range(first, last), *[0] * (num_slots - last + first)])
    part = {name: getattr(batch, name)[:, index] for name in FIELDS}
    part["chunk_mask"] = torch.arange(num_slots).expand(len(batch.sequence_ids), -1) < last - first
    return replace(batch, **part)


def predict(theta, batch, perfect_output):
    """A prediction made of the batch's own data by 10 parameters; padding gets one as well."""
    exact = perfect_output(build_targets(batch, "chunk", alone, min_valid_pixels=1))
    wave = torch.sin(batch.depth * 9)
    return replace(
        exact,
        pose_encoding_stages=exact.pose_encoding_stages.detach() * theta[0] + theta[1],
        depth=batch.depth * theta[2] + wave * theta[3],
        depth_conf=1 + torch.exp(theta[4] + theta[5] * wave),
        world_points=exact.world_points.detach() * theta[6] + wave[..., None] * theta[7],
        world_points_conf=1 + torch.exp(theta[8] + theta[9] * wave),
    )


def new_theta():
    return torch.tensor(
        [0.9, 0.1, 1.2, 0.05, 0.1, 0.2, 0.8, -0.1, 0.3, 0.1], dtype=torch.float64, requires_grad=True
    )


def run_world(groups, config, make_batch, perfect_output, num_averaged=None):
    """The mean over ranks of the gradients, and every rank's logs."""
    num_slots = max(last - first for group in groups for first, last in group.chunks)
    num_world = sum(len(group.chunks) for group in groups)
    world, jobs = FakeSum(num_world), []
    for group in groups:
        batch, sums = whole_batch(make_batch, group), FakeSum(len(group.chunks))
        jobs += [
            (rank_batch(batch, *span, num_slots), sums.for_rank(i)) for i, span in enumerate(group.chunks)
        ]

    def run_rank(rank):
        batch, sum_over_group = jobs[rank]
        theta = new_theta()
        targets = build_targets(batch, config.normalization, sum_over_group, config.min_valid_pixels)
        terms = compute_terms(predict(theta, batch, perfect_output), targets, config)
        loss, logs = reduce_terms(
            terms,
            config.average,
            batch.chunk_mask,
            RankSums(num_world, world.for_rank(rank), sum_over_group),
            num_averaged,
        )
        loss.backward()
        return theta.grad, logs

    with ThreadPoolExecutor(num_world) as pool:
        results = list(pool.map(run_rank, range(num_world)))
    return torch.stack([gradient for gradient, _ in results]).mean(0), [logs for _, logs in results]


def run_plainly(groups, config, make_batch, perfect_output):
    """One process, no padding, and the two means as one would write them down first."""
    theta, items = new_theta(), []
    for group in groups:
        batch = whole_batch(make_batch, group)
        targets = build_targets(batch, config.normalization, alone, config.min_valid_pixels)
        terms = compute_terms(predict(theta, batch, perfect_output), targets, config).values()
        for b in range(group.num_sequences):
            if config.average == "sequence":
                items.append(sum(e.weight * e.term.total[b].sum() / e.term.count[b].sum() for e in terms))
            else:
                items += [
                    sum(e.weight * e.term.total[b, k] / e.term.count[b, k].clamp(min=1) for e in terms)
                    for k in range(group.num_chunks)
                ]
    loss = torch.stack(items).mean()
    loss.backward()
    return theta.grad, loss.detach(), len(items)


@pytest.mark.parametrize("average", ["chunk", "sequence"])
@pytest.mark.parametrize("scope", ["chunk", "sequence"])
@pytest.mark.parametrize("groups", [MIXED, ALONE, ONE_GROUP], ids=["mixed", "alone", "one_group"])
def test_mean_over_ranks_is_the_plain_mean(make_batch, perfect_output, groups, scope, average):
    config = settings(scope, average)
    gradient, logs = run_world(groups, config, make_batch, perfect_output)
    expected, loss, num_items = run_plainly(groups, config, make_batch, perfect_output)
    assert (gradient - expected).norm() <= 1e-12 * expected.norm()
    for entry in logs:
        assert entry["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
        assert {name: value.item() for name, value in entry.items()} == {
            name: value.item() for name, value in logs[0].items()
        }
    known, _ = run_world(groups, config, make_batch, perfect_output, num_averaged=num_items)
    assert (known - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("average", ["chunk", "sequence"])
def test_the_naive_mean_of_each_rank_is_something_else(make_batch, perfect_output, average):
    """The comparison above can fail: without communication, unequal ranks give another gradient."""
    config = settings("chunk", average)
    expected, _, _ = run_plainly(MIXED, config, make_batch, perfect_output)
    gradients = []
    for group in MIXED:
        for span in group.chunks:
            batch, theta = rank_batch(whole_batch(make_batch, group), *span, 3), new_theta()
            targets = build_targets(batch, "chunk", alone, 1)
            terms = compute_terms(predict(theta, batch, perfect_output), targets, config)
            reduce_terms(terms, average, batch.chunk_mask, ONE_RANK)[0].backward()
            gradients.append(theta.grad)
    naive = torch.stack(gradients).mean(0)
    assert (naive - expected).norm() > 1e-2 * expected.norm()


def test_filter_is_active_in_these_tests(make_batch, perfect_output):
    config = settings("chunk", "chunk")
    assert isinstance(config.depth, RegressionSettings)
    batch = whole_batch(make_batch, MIXED[0])
    targets = build_targets(batch, "chunk", alone, 1)
    terms = compute_terms(predict(new_theta(), batch, perfect_output), targets, config)
    assert (terms["depth_regression"].term.count < targets.mask.flatten(2).sum(-1)).all()
