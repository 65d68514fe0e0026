"""Chunks are dealt to ranks in order, completely and evenly."""

from hypothesis import given
from hypothesis import strategies as st

from scal3r_train.parallel.context_groups import assign_chunks


@given(num_chunks=st.integers(0, 200), num_ranks=st.integers(1, 64))
def test_every_chunk_has_one_rank_and_shares_differ_by_one(num_chunks, num_ranks):
    shares = assign_chunks(num_chunks, num_ranks)
    assert len(shares) == num_ranks
    assert [chunk for share in shares for chunk in share] == list(range(num_chunks))
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def test_examples():
    assert assign_chunks(7, 3) == [range(0, 3), range(3, 5), range(5, 7)]
    assert [len(share) for share in assign_chunks(2, 4)] == [1, 1, 0, 0]
