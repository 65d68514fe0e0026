"""Frame order inside a chunk, and the way of chunks into batches of equal shape and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scal3r_train.model.chunk_batch import (
    batch_images,
    in_temporal_order,
    reference_first,
    reference_first_order,
    reference_index,
    unbatch,
)

lengths = st.integers(1, 100)


@given(num_frames=lengths)
def test_the_reference_frame_is_the_temporal_middle(num_frames):
    """At most as many frames before it as after, and at most one fewer."""
    before = reference_index(num_frames)
    after = num_frames - 1 - before
    assert 0 <= after - before <= 1


@given(num_frames=lengths)
def test_processing_order_is_the_reference_then_the_rest_in_time(num_frames):
    order = reference_first_order(num_frames)
    assert order[0] == reference_index(num_frames)
    assert order[1:] == sorted(order[1:])
    assert sorted(order) == list(range(num_frames))


@given(num_frames=lengths)
def test_frames_are_put_into_that_order_and_back(num_frames):
    frames = torch.arange(2 * num_frames).view(num_frames, 2)
    expected = frames[reference_first_order(num_frames)]
    assert torch.equal(reference_first(frames, dim=0), expected)
    assert torch.equal(reference_first(frames.T, dim=1), expected.T)
    assert torch.equal(in_temporal_order(expected, dim=0), frames)


def test_order_of_the_specification():
    assert reference_first_order(5) == [2, 0, 1, 3, 4]
    assert reference_first_order(4) == [1, 0, 2, 3]
    assert reference_first_order(1) == [0]


@given(
    chunks=st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.sampled_from([4, 8])), max_size=4), min_size=1, max_size=3
    )
)
def test_nested_chunks_come_back_in_their_places(chunks):
    count = iter(range(1000))
    images = [[torch.full((s, 3, h, 4), float(next(count))) for s, h in sequence] for sequence in chunks]
    batches = batch_images(images, None)
    assert sum(batch.images.shape[1] for batch in batches) == sum(map(len, chunks))
    assert len(batches) == sum(len(set(sequence)) for sequence in chunks)
    restored = unbatch([batch.images for batch in batches], batches, len(images))
    if restored:
        assert len(restored) == len(images)
    for sequence, expected in zip(restored, images, strict=True):
        assert len(sequence) == len(expected)
        assert all(torch.equal(one, other) for one, other in zip(sequence, expected, strict=True))


@pytest.mark.parametrize(
    ("images", "mask", "message"),
    [
        (torch.zeros(1, 2, 3, 3, 4, 5), torch.ones(2, 1), r"chunk_mask must be \[1, 2\]"),
        ([[torch.zeros(1, 3, 4, 4)]], torch.ones(1, 1), "goes with tensor input"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(images, mask, message):
    with pytest.raises(ValueError, match=message):
        batch_images(images, mask)
