"""One chunk through the network, segment by segment, with a memory between two segments (docs/model.md#segments).

The memories cut the network into segments. A segment forward applies the memory before it, runs the layers up to the
next one and computes the chunk's gradient for that. What a chunk carries from segment to segment is its `ChunkState`:
tokens, what the wanted dense heads keep of the taps so far, and for a tapped memory layer the half of the tap that the
memory does not change. Frames are in processing order (reference first) until they become a prediction.

Shapes: S frames, P tokens of a frame, C channels, H W pixels, h w patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.inference.prediction import ChunkPrediction, PointSource
from scal3r_train.model.aggregator import AggregatorState, MemoryRead, Tap
from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.chunk_batch import ChunkBatch, ImageBatch, in_temporal_order
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.dpt_head import DPTHead
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.precision import computing
from scal3r_train.model.rope import TokenPositions, token_positions
from scal3r_train.parallel.host_memory import pinned_bytes

Precision = Literal["float32", "bfloat16"]
MAX_UINT8 = 255
DENSE_HEADS = ("depth", "points")


@dataclass(frozen=True, eq=False)
class ChunkState:
    """What a chunk carries between two segments.

    Attributes:
        segments_done: how many segments it has passed.
        tensors: "tokens" [S, P, C]; "pending" [S, P, C] after a tapped memory layer; "HEAD.LEVEL" [S, c, h, w], what a
            dense head keeps of one of its taps; "poses" [S, 9], temporal order, of an encoder that measures motion.
        image_hw: of the chunk's images.
    """

    segments_done: int
    tensors: dict[str, Tensor]
    image_hw: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> ChunkState:
        """Return the state with its tensors elsewhere."""
        return replace(self, tensors=dict(tensors))


OnEmbedded = Callable[[ChunkState], None]


def ignore(_state: ChunkState) -> None:
    """Do nothing with a state."""


class ChunkRunner:
    """Runs chunks through the segments of a model and the heads that a reconstruction needs.

    Attributes:
        model: in evaluation mode.
        config: of the model.
        precision: of encoder and attention.
        heads: the dense heads that run.
        segments: layers of every segment; all but the last end with a memory.
        fov: horizontal field of view of the video in radians where it is known; only an encoder that measures motion
            asks for it.
    """

    def __init__(
        self, model: Scal3RModel, points: PointSource, precision: Precision, fov: float | None = None
    ) -> None:
        """Plan the segments; `points` "head" runs the point head too, `precision` is that of encoder and attention."""
        self.fov = fov
        self.model = model
        self.config: Scal3RConfig = model.config
        self.precision = precision
        self.heads = dense_heads(points)
        self.segments = plan_segments(model)
        self._weight = next(model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._weight.device

    @property
    def num_memories(self) -> int:
        """How many segments end with a memory: all but the last."""
        return len(self.segments) - 1

    @property
    def state_dtype(self) -> torch.dtype:
        """The dtype in which states are kept."""
        return torch.bfloat16 if self.precision == "bfloat16" else self._weight.dtype

    def memory(self, segment: int) -> AdaptiveMemoryUnit:
        """Return the memory after a segment."""
        unit = self.model.aggregator.memory_after(self.segments[segment])
        assert unit is not None
        return unit

    @torch.no_grad()
    def embed(self, images: Tensor) -> ChunkState:
        """Return the state before the first segment of images [S, 3, H, W] uint8, temporal order."""
        image_hw = images.shape[-2], images.shape[-1]
        floats = images.to(self._weight.device).to(self._weight.dtype) / MAX_UINT8
        with self._computing():
            fov = None if self.fov is None else floats.new_full((1, 1), self.fov)
            batch = self.model.aggregator.embed(ImageBatch(floats[None, None], (0,), (), None, fov))
        tensors = {"tokens": batch.tokens[0, 0]}
        if batch.motion is not None:
            tensors["poses"] = batch.motion.poses[0, 0]
        return ChunkState(0, tensors, image_hw)

    def updated_memory(self, segment: int, weights: FastWeights) -> MemoryRead:
        """Return the memory after a segment, to be read with its updated weights."""
        return MemoryRead(self.segments[segment][-1], self.memory(segment), weights)

    @torch.no_grad()
    def forward_segment(
        self, state: ChunkState, read: MemoryRead | None, *, writes: bool = True
    ) -> tuple[ChunkState, FastWeights | None]:
        """Run the state's next segment, which must not be the last.

        Args:
            state: before the segment.
            read: the updated memory before the segment; None before the first.
            writes: whether the gradient is wanted; else its computation is spared.

        Returns:
            The state after the segment, and the gradient for the memory after it, None unless it `writes`.
        """
        after, gradient = self._forward_segment(state, read, writes=writes)
        return self._pack(after, state), gradient

    @torch.no_grad()
    def forward_chunk(
        self,
        images: Tensor,
        total_of: Callable[[int, FastWeights], FastWeights],
        on_embedded: OnEmbedded = ignore,
    ) -> ChunkPrediction:
        """Return the prediction of a chunk that waits for no later chunk: all segments, one after another.

        Args:
            images: [S, 3, H, W] uint8, temporal order.
            total_of: from a segment's number and the chunk's gradient to the sum that the memory after that segment is
                updated with.
            on_embedded: is given the state before the first segment.
        """
        state, read = self.embed(images), None
        on_embedded(state)
        while state.segments_done < self.num_memories:
            segment = state.segments_done
            state, gradient = self.forward_segment(state, read)
            assert gradient is not None
            weights = self.memory(segment).updated_weights(total_of(segment, gradient))
            read = self.updated_memory(segment, weights)
        return self.predict(state, read)

    @torch.no_grad()
    def gradient(self, state: ChunkState) -> FastWeights:
        """Return the gradient that the state's latest segment ended with."""
        with self._computing():
            return self.memory(state.segments_done - 1).chunk_gradient(self.batch(state))

    @torch.no_grad()
    def predict(self, state: ChunkState, read: MemoryRead | None) -> ChunkPrediction:
        """Run the last segment and return what the heads predict."""
        assert state.segments_done == self.num_memories
        with self._computing(), torch.autocast(self._weight.device.type, enabled=False):
            return self._heads(state, self._forward_segment(state, read, writes=False)[0])

    def _heads(self, state: ChunkState, after: AggregatorState) -> ChunkPrediction:
        """Return what the heads predict after the last segment."""
        *_, last = self.config.tap_layers
        poses = state.tensors.get("poses")
        start = None if poses is None else poses[None, None]
        encoding = self.model.cameras(after.taps[last]["camera"], start)[0, 0, -1].double()
        maps = [
            in_temporal_order(each, dim=0) for name in self.heads for each in self._dense(name, state, after)
        ]
        # The host waits from here on, with everything that the device has to do for this chunk under way.
        extrinsics, intrinsics = decode_pose(encoding.cpu(), state.image_hw)
        depth, depth_conf, *points = (each.cpu() for each in maps)
        return ChunkPrediction(extrinsics, intrinsics, depth.squeeze(-1), depth_conf, *points)

    def batch(self, state: ChunkState) -> ChunkBatch:
        """Return the state's tokens as the model takes them."""
        tokens = state.tensors["tokens"].to(self._weight.dtype)[None, None]
        grid = self.grid(state.image_hw)
        positions = token_positions(*grid, self.config.num_special_tokens, tokens.device)
        return ChunkBatch(tokens, TokenPositions(positions), (0,), None)

    def grid(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of the patches of images."""
        return image_hw[0] // self.config.patch_size, image_hw[1] // self.config.patch_size

    def _forward_segment(
        self, state: ChunkState, read: MemoryRead | None, *, writes: bool
    ) -> tuple[AggregatorState, FastWeights | None]:
        before = AggregatorState(self.batch(state), {}, self._pending(state))
        grid, layers, tapped = (
            self.grid(state.image_hw),
            self.segments[state.segments_done],
            self.config.tap_layers,
        )

        def read_tap(layer: int, tap: Tap) -> dict[str, Any]:
            return self._read_tap(layer, tap, grid)

        with self._computing():
            return self.model.aggregator.forward_segment(
                before, read, None, layers, tapped, read_tap, writes=writes
            )

    def _read_tap(self, layer: int, tap: Tap, grid: tuple[int, int]) -> dict[str, Any]:
        """Return what the heads keep of a tap: of the last one the camera tokens, and the dense heads' maps."""
        halves = [half.flatten(0, 2) for half in tap]
        kept: dict[str, Any] = {}
        with torch.autocast(self._weight.device.type, enabled=False):
            for name in self.heads:
                head = self._head(name)
                for level, tapped in enumerate(self.config.tap_layers):
                    if tapped == layer:
                        passes = zip(*(half.split(head.frames_per_pass) for half in halves), strict=True)
                        maps = [head.compressed(level, parts, grid) for parts in passes]
                        kept[f"{name}.{level}"] = torch.cat(maps).to(self.state_dtype)
        if layer == self.config.tap_layers[-1]:
            kept["camera"] = Tap(*(half[:, :, :, :1].clone() for half in tap))
        return kept

    def _pack(self, after: AggregatorState, before: ChunkState) -> ChunkState:
        tensors = {key: value for key, value in before.tensors.items() if key not in ("tokens", "pending")}
        tensors["tokens"] = after.batch.tokens[0, 0].to(self.state_dtype)
        if after.pending_frame_half is not None:
            tensors["pending"] = after.pending_frame_half[0, 0].to(self.state_dtype)
        for kept in after.taps.values():
            tensors |= {key: value for key, value in kept.items() if key != "camera"}
        return ChunkState(before.segments_done + 1, tensors, before.image_hw)

    def _dense(self, name: str, state: ChunkState, after: AggregatorState) -> tuple[Tensor, Tensor]:
        head = self._head(name)
        found = dict(state.tensors)
        for kept in after.taps.values():
            found |= kept
        maps = [found[f"{name}.{level}"].to(head.norm.weight.dtype) for level in range(4)]
        return head.decode(maps)

    def _head(self, name: str) -> DPTHead:
        head = self.model.depth_head if name == "depth" else self.model.point_head
        assert head is not None
        return head

    def _pending(self, state: ChunkState) -> Tensor | None:
        pending = state.tensors.get("pending")
        return None if pending is None else pending.to(self._weight.dtype)[None, None]

    def _computing(self) -> AbstractContextManager[None]:
        """Return the context of the chosen precision."""
        return computing(self._weight.device, reduced=self.precision == "bfloat16")


def dense_heads(points: PointSource) -> tuple[str, ...]:
    """Return the dense heads that a source of points needs; depth maps are always wanted."""
    return DENSE_HEADS if points == "head" else DENSE_HEADS[:1]


def plan_segments(model: Scal3RModel) -> list[range]:
    """Return the layers of every segment; all but the last end with a memory, the last may have none left."""
    segments = model.aggregator.segments()
    if model.aggregator.memory_after(segments[-1]) is not None:
        segments.append(range(segments[-1].stop, segments[-1].stop))
    return segments


class StateBytes(NamedTuple):
    """Most bytes that the state of one chunk takes between any two segments.

    Attributes:
        plain: of its tensors.
        pinned: of the pinned memory that holds them, each rounded up by torch's allocator.
    """

    plain: int
    pinned: int


def state_bytes(
    config: Scal3RConfig, heads: Sequence[str], num_frames: int, grid: tuple[int, int], itemsize: int
) -> StateBytes:
    """Return what the state of a chunk of frames takes; grid: patches of an image."""
    num_patches = grid[0] * grid[1]
    tokens = (config.num_special_tokens + num_patches) * config.hidden_size
    plain = pinned = 0
    for memory in config.memory_layers:
        done = [level for level, layer in enumerate(config.tap_layers) if layer < memory]
        maps = len(heads) * [num_patches * config.dpt_channels[level] for level in done]
        tensors = [tokens] * (2 if memory in config.tap_layers else 1) + maps
        sizes = [num_frames * tensor * itemsize for tensor in tensors]
        plain, pinned = max(plain, sum(sizes)), max(pinned, sum(map(pinned_bytes, sizes)))
    return StateBytes(plain, pinned)
