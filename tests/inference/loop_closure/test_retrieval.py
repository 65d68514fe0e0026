"""Loop candidates: the blocked search against a plain one, small and degenerate sequences, and a made-up loop."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.inference.loop_closure import retrieval
from scal3r_train.inference.loop_closure.frame_descriptors import frame_descriptor, thumbnail_descriptor
from scal3r_train.inference.loop_closure.retrieval import (
    LoopCandidate,
    comparison_space,
    find_loop_candidates,
    sequence_threshold,
    similar_pairs,
    suppress_neighbours,
)
from scal3r_train.inference.loop_closure.settings import LoopSettings


def _walk(num_frames: int, lap: int, dim: int = 48, noise: float = 0.3) -> Tensor:
    """Descriptors of a camera that goes round a course of `lap` places; all share a large common part."""
    random = torch.Generator().manual_seed(3)
    places = torch.randn(lap, dim, generator=random)
    kernel = torch.exp(-0.5 * (torch.arange(-8, 9) / 4.0) ** 2)
    smooth = sum(weight * places.roll(shift, 0) for weight, shift in zip(kernel, range(-8, 9), strict=True))
    frames = smooth[torch.arange(num_frames) % lap] / smooth.std()
    return 20 + frames + noise * torch.randn(num_frames, dim, generator=random)


def _plain_pairs(space: np.ndarray, threshold: float, settings: LoopSettings) -> list[tuple[int, int]]:
    """The search written out: every frame sorts all others."""
    found = {}
    for i in range(len(space)):
        scored = []
        for j in range(len(space)):
            gap = abs(i - j)
            if gap > (0 if settings.near_frames_compete else settings.min_gap):
                scored.append((-float(space[i] @ space[j]), j, gap))
        for value, j, gap in sorted(scored)[: settings.top_k]:
            if -value > threshold and gap > settings.min_gap:
                found.setdefault((min(i, j), max(i, j)), -value)
    return sorted(found, key=lambda pair: (-found[pair], pair))


@pytest.mark.parametrize("near_frames_compete", [False, True])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 37, 130])
def test_blocked_search_equals_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, num_frames: int, near_frames_compete: bool
) -> None:
    monkeypatch.setattr(retrieval, "BLOCK_PAIRS", 16 * num_frames)
    settings = LoopSettings(top_k=3, min_gap=4, near_frames_compete=near_frames_compete)
    # Small whole numbers: sums are exact, and many similarities are equal.
    space = torch.randint(-2, 3, (num_frames, 6), generator=torch.Generator().manual_seed(num_frames)).float()
    pairs = similar_pairs(space, 2.0, settings)
    assert [(pair.earlier, pair.later) for pair in pairs] == _plain_pairs(space.numpy(), 2.0, settings)
    assert bool(pairs) == (num_frames > 5)


def test_suppression_equals_the_plain_one() -> None:
    random = np.random.default_rng(0)
    ends = np.sort(random.integers(0, 200, (300, 2)), axis=1)
    pairs = [LoopCandidate(int(a), int(b), 1 - k / 300) for k, (a, b) in enumerate(ends)]
    kept: list[LoopCandidate] = []
    for pair in pairs:
        used = [end for other in kept for end in other[:2]]
        if pair.earlier < pair.later and all(
            abs(a - b) > 9 for a in (pair.earlier, pair.later) for b in used
        ):
            kept.append(pair)
    assert list(suppress_neighbours(pairs, 200, 9)) == kept
    assert len(kept) > 3


def test_finds_the_second_lap_and_nothing_else() -> None:
    search = find_loop_candidates(_walk(520, 400), LoopSettings(min_deviations=5))
    assert all(abs(pair.later - pair.earlier - 400) <= 4 for pair in search.candidates)
    # Every stretch of the second lap between silenced neighbours is represented.
    ends = sorted(pair.later for pair in search.candidates)
    assert ends[0] < 440
    assert ends[-1] > 480
    assert search.num_pairs > len(search.candidates)


def test_without_a_loop_nothing_stands_out_for_long() -> None:
    assert (
        len(find_loop_candidates(_walk(520, 2000, noise=0.1), LoopSettings(min_deviations=5)).candidates) == 0
    )


def test_the_threshold_needs_no_tuning_when_all_frames_share_much() -> None:
    settings = LoopSettings()
    little = find_loop_candidates(_walk(520, 400) - 20, settings)
    much = find_loop_candidates(_walk(520, 400) + 500, settings)
    assert [pair[:2] for pair in much.candidates] == [pair[:2] for pair in little.candidates]


def test_a_camera_at_rest_closes_no_loop() -> None:
    moving = _walk(400, 400, noise=0.02)
    rest = moving[200:201] + 0.02 * torch.randn(150, moving.shape[1])
    frames = torch.cat([moving[:200], rest, moving[200:]])
    free = find_loop_candidates(frames, LoopSettings(must_leave=False))
    assert any(200 <= pair.earlier and pair.later < 355 for pair in free.candidates)
    found = find_loop_candidates(frames, LoopSettings())
    assert not any(190 <= pair.earlier and pair.later < 360 for pair in found.candidates)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 200])
@pytest.mark.parametrize("settings", [LoopSettings(), LoopSettings(num_components=0, temporal_window=1)])
def test_equal_frames_resemble_nothing_that_stands_out(num_frames: int, settings: LoopSettings) -> None:
    descriptor = torch.rand(1, 384, generator=torch.Generator().manual_seed(1)) * 7.3
    found = find_loop_candidates(descriptor.repeat(num_frames, 1), settings)
    assert found.candidates == ()


@pytest.mark.parametrize("num_frames", [1, 2, 5, 60])
def test_short_videos_have_no_candidates(num_frames: int) -> None:
    search = find_loop_candidates(torch.randn(num_frames, 12), LoopSettings())
    assert search.candidates == ()
    assert search.min_similarity == math.inf


def test_a_nan_is_named() -> None:
    descriptors = torch.randn(90, 4)
    descriptors[7, 2] = math.nan
    with pytest.raises(UserError, match="tokens descriptor of frame 7"):
        find_loop_candidates(descriptors, LoopSettings())


def test_candidates_are_bounded_and_repeatable() -> None:
    settings = LoopSettings(max_candidates=2)
    first, again = (find_loop_candidates(_walk(520, 400), settings) for _ in range(2))
    assert first == again
    assert len(first.candidates) == 2


def test_whitening_removes_what_frames_share_and_evens_out_the_rest() -> None:
    random = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 3, generator=random, dtype=torch.float64)).Q
    signal = torch.randn(900, 3, generator=random, dtype=torch.float64) * torch.tensor([16.0, 4.0, 1.0])
    space = comparison_space(signal @ basis.mT + 100, 3, 1).double()
    assert torch.allclose(space.norm(dim=1), torch.ones(900, dtype=torch.float64), atol=1e-6)
    centred = signal - signal.mean(dim=0)
    # Half whitening: standard deviations 16, 4, 1 become their square roots.
    expected = torch.nn.functional.normalize(centred / torch.tensor([4.0, 2.0, 1.0]), dim=1)
    assert (space @ space.mT - expected @ expected.mT).abs().max() < 0.1


def test_sequence_threshold_of_known_similarities() -> None:
    random = torch.Generator().manual_seed(0)
    space = torch.nn.functional.normalize(torch.randn(1000, 64, generator=random), dim=1)
    # Inner products of random directions: mean 0, standard deviation 1 / sqrt(64).
    assert sequence_threshold(space, 10, 3.0) == pytest.approx(3 / 8, rel=0.02)


def test_frame_descriptor_is_mean_and_deviation_of_thirds() -> None:
    tokens = torch.randn(4, 12, 5, dtype=torch.bfloat16)
    parts = tokens.float().numpy().reshape(4, 3, 4, 5)
    expected = np.concatenate([np.r_[part.mean(0), part.std(0)][None] for part in parts.reshape(12, 4, 5)])
    result = frame_descriptor(tokens)
    assert result.dtype == torch.float32
    assert np.allclose(result.numpy().reshape(12, 10), expected, atol=1e-6)
    assert frame_descriptor(tokens[:, :1]).isfinite().all()


def test_frame_descriptor_forgets_the_heading_but_not_the_heights() -> None:
    tokens = torch.randn(1, 6, 8, 5)
    turned, upended = tokens.roll(3, dims=2), tokens.flip(1)
    original, same, other = (frame_descriptor(t.flatten(1, 2)) for t in (tokens, turned, upended))
    assert torch.allclose(original, same, atol=1e-6)
    assert not torch.allclose(original, other, atol=1e-2)


def test_thumbnails_ignore_brightness_and_a_uniform_image_is_zero() -> None:
    image = torch.randint(40, 160, (3, 70, 90), dtype=torch.uint8)
    a, b, black = thumbnail_descriptor(torch.stack([image, image + 50, image * 0]))
    assert a @ b > 0.999
    assert black.abs().max() == 0


@pytest.mark.parametrize(
    "values", [{"descriptor": "salad"}, {"temporal_window": 4}, {"window_size": 7}, {"top_k": 0}]
)
def test_settings_refuse(values: dict) -> None:
    with pytest.raises(ValidationError):
        LoopSettings(**values)


@pytest.mark.slow
def test_finds_the_loop_of_a_rendered_drive(shared_dir: Path) -> None:
    """Thumbnails of a drive of 1.1 laps: the best candidates join the second lap to the first, within 10 m."""
    folder = shared_dir / "data" / "game_loop"
    files = sorted(folder.glob("rgb/*.jpg"))
    images = torch.from_numpy(np.stack([cv2.imread(str(file)) for file in files])).flip(-1).movedim(-1, 1)
    centres = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)[:, :, 3]
    search = find_loop_candidates(thumbnail_descriptor(images), LoopSettings(descriptor="thumbnail"))
    for pair in search.candidates[:3]:
        assert np.linalg.norm(centres[pair.earlier] - centres[pair.later]) < 10
        assert pair.later - pair.earlier > 1000
    assert len(search.candidates) <= 20
