"""Predictions under a condition: how many chunks share a memory, and whether it may change at test time.

Shapes: K chunks, S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.modeling_scal3r import ONLY_PREDICTIONS, Scal3RModel


@dataclass(frozen=True)
class Condition:
    """How a trained model is used.

    Attributes:
        chunks_in_memory: consecutive chunks that share a memory; None: all of the sequence.
        is_frozen: the fast weights stay as they were trained.
    """

    chunks_in_memory: int | None = None
    is_frozen: bool = False


AS_TRAINED = Condition()
GCS_OFF = Condition(chunks_in_memory=1)
FROZEN = Condition(is_frozen=True)


@torch.no_grad()
def predict_chunks(model: Scal3RModel, images: Tensor, condition: Condition) -> list[ChunkPrediction]:
    """Return the predictions for consecutive chunks, images [K, S, 3, H, W] in 0..1.

    Chunks that share a memory are one sequence to the model. Without a depth head all depths are 0, and chunks are
    joined by their cameras.
    """
    size = min(condition.chunks_in_memory or len(images), len(images))
    num_whole = len(images) // size * size
    batches = [images[:num_whole].unflatten(0, (-1, size))]
    if num_whole < len(images):
        batches.append(images[None, num_whole:])
    found: list[ChunkPrediction] = []
    with frozen_memories(model, is_frozen=condition.is_frozen):
        for batch in batches:
            found += _predict(model, batch)
    return found


@contextmanager
def frozen_memories(model: Scal3RModel, *, is_frozen: bool) -> Iterator[None]:
    """Let the memories' sums be zero: an update by nothing leaves the fast weights as they are."""
    units = [unit for unit in model.aggregator.memory_units.values() if isinstance(unit, AdaptiveMemoryUnit)]
    sums = [unit.sum_over_context for unit in units]
    try:
        if is_frozen:
            for unit in units:
                assert unit.scope == "sequence", "a memory of one chunk asks for no sum"
                unit.sum_over_context = _nothing
        yield
    finally:
        for unit, before in zip(units, sums, strict=True):
            unit.sum_over_context = before


def _nothing(gradient: Tensor) -> Callable[[], Tensor]:
    return lambda: torch.zeros_like(gradient)


def _predict(model: Scal3RModel, images: Tensor) -> list[ChunkPrediction]:
    """Return the predictions for images [B, K, S, 3, H, W], sequence by sequence; without depth if there is no head."""
    output = model(images.to(model.device), **ONLY_PREDICTIONS)
    assert isinstance(output.pose_encoding, Tensor)
    encoding = output.pose_encoding.flatten(0, 1).double().cpu()
    extrinsics, intrinsics = decode_pose(encoding, (images.shape[-2], images.shape[-1]))
    if isinstance(output.depth, Tensor) and isinstance(output.depth_conf, Tensor):
        depth, confidence = (maps.flatten(0, 1).cpu() for maps in (output.depth, output.depth_conf))
    else:
        depth = torch.zeros(*encoding.shape[:2], 1, 1)
        confidence = torch.ones_like(depth)
    parts = zip(extrinsics, intrinsics, depth, confidence, strict=True)
    return [ChunkPrediction(*part) for part in parts]
