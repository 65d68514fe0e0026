"""Collectives and the process among its peers: alone, and on the four ranks of exactness_worker.py."""

import pytest
import torch

from scal3r_train.parallel import collectives
from scal3r_train.parallel.process import current_process, joined_processes


@pytest.mark.exactness
@pytest.mark.timeout(300)
def test_four_ranks_agree(ranks):
    answers = [notes["collectives"] for notes in ranks.notes]
    for rank, answer in enumerate(answers):
        assert answer["process"] == [rank, 4, rank == 0, "cpu"]
        assert answer["gathered"] == [{"rank": other} for other in range(4)]
        assert answer["broadcast"] == "from 0"
        assert answer["total"] == [4, 6]
        assert answer["maximum"] == [3, 0]
        assert answer["alone"]
    assert [answer["pair_count"] for answer in answers] == [1, 1, 5, 5]
    assert [answer["pair_sum"] for answer in answers] == [3, 3, 7, 7]
    assert [answer["pair_gradient"] for answer in answers] == [11, 11, 1100, 1100]
    waits = ["started", "begun", "ended", "begun", "ended"]
    assert [answer["pair_started"] for answer in answers] == [[s, waits] for s in (11, 11, 1100, 1100)]


def test_a_lone_process_needs_no_group():
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    assert collectives.sum_over_group(x, None) is x
    for total in (
        collectives.total_over_group(x, None),
        collectives.total_over_world(x),
        collectives.maximum_over_world(x),
    ):
        assert torch.equal(total, x)
        assert not total.requires_grad
    assert collectives.gather_to_all("a") == ["a"]
    assert collectives.broadcast_from_main("a") == "a"


def test_a_lone_process_is_the_main_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with joined_processes() as process:
        assert not torch.distributed.is_initialized()
        assert (process.rank, process.world_size, process.is_main) == (0, 1, True)
        assert process == current_process()
