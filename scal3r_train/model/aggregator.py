"""Alternating frame and global attention, cut into segments by the Adaptive Memory Units.

docs/numerics.md#alternating-attention has the numerics, docs/model.md#segments the reason for the cuts.

Shapes: B sequences, K chunks, S frames, P tokens of a frame (camera, registers, patches), C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from scal3r_train.model.activation_checkpointing import Result, recompute
from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.block import CheckpointedBlock
from scal3r_train.model.chunk_batch import ChunkBatch, ImageBatch, MotionEstimate, reference_first
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.model.motion_encoder import DirectPatchEncoder
from scal3r_train.model.patch_encoder import build_patch_encoder
from scal3r_train.model.rope import TokenPositions, token_positions

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
AGGREGATOR_NORM_EPS = 1e-5
EMBEDDING = -1  # as a tapped layer: the tokens before layer 0, as both halves


def normalize_images(images: Tensor) -> Tensor:
    """Return images [..., 3, H, W] in [0, 1] with ImageNet's mean and standard deviation removed."""
    # Filled on the device: a tensor of these numbers would be copied there, and the host would wait for it.
    mean, std = (
        torch.cat([images.new_full((1, 1, 1), value) for value in values])
        for values in (IMAGE_MEAN, IMAGE_STD)
    )
    return (images - mean) / std


class AggregatorBlock(CheckpointedBlock):
    """A transformer block with the aggregator's settings."""

    def __init__(self, config: Scal3RConfig) -> None:
        """Build with qk-norm and the configured LayerScale."""
        super().__init__(
            config.hidden_size,
            config.num_heads,
            config.mlp_ratio,
            config.layer_scale_init,
            qk_norm=True,
            norm_eps=AGGREGATOR_NORM_EPS,
        )


class Tap(NamedTuple):
    """What a tapped layer hands to the heads; its features are the two side by side, [B, K, S, P, 2C].

    They are joined where they are read: until then they are the very tensors that the next blocks keep.

    Attributes:
        frame_half: output of the layer's frame block, [B, K, S, P, C].
        layer_half: output of the layer, after its memory if it has one, [B, K, S, P, C].
    """

    frame_half: Tensor
    layer_half: Tensor

    def with_chunks_of(self, num_sequences: int) -> Tap:
        """Return halves [B * K, 1, ...], each chunk a sequence of its own, as [B, K, ...]."""
        return Tap(*(rearrange(half, "(b k) 1 ... -> b k ...", b=num_sequences) for half in self))


class ChunkFeatures(NamedTuple):
    """What the aggregator hands to the heads for one image batch; a tuple, in which ZeRO-3 finds the tensors.

    Attributes:
        taps: of the requested layers, frames in processing order.
        motion: what the patch encoder measured, frames in temporal order; None when it does not.
    """

    taps: dict[int, Tap]
    motion: MotionEstimate | None

    def with_chunks_of(self, num_sequences: int) -> ChunkFeatures:
        """Return features [B * K, 1, ...], each chunk a sequence of its own, as [B, K, ...]."""
        taps = {layer: tap.with_chunks_of(num_sequences) for layer, tap in self.taps.items()}
        return ChunkFeatures(taps, None if self.motion is None else self.motion.with_chunks_of(num_sequences))


TapReader = Callable[[int, Tap], Any]


def keep_tap(_layer: int, tap: Tap) -> Tap:
    """Keep a tap as it is; a reader that keeps less makes what lives between segments smaller."""
    return tap


@dataclass(frozen=True)
class AggregatorState:
    """What the aggregator carries for one chunk batch between segments.

    Attributes:
        batch: the chunks' current tokens.
        taps: what the reader of taps made of those of the tapped layers so far.
        pending_frame_half: frame-block output of a tapped layer whose memory has not been applied yet.
    """

    batch: ChunkBatch
    taps: dict[int, Any]
    pending_frame_half: Tensor | None = None


@dataclass(frozen=True)
class MemoryRead:
    """A memory that has been updated and is yet to be applied.

    Attributes:
        layer: the layer it follows.
        unit: the memory.
        weights: its updated weights of each sequence.
    """

    layer: int
    unit: AdaptiveMemoryUnit
    weights: FastWeights


class Aggregator(nn.Module):
    """Patch encoder, special tokens, alternating attention and memories.

    `recomputes_segments` makes the encoder, and each chunk batch's passage of a segment, one region that is
    computed again in backward; sums over the context lie between regions, so recomputation never repeats one.
    `frames_per_pass` bounds how many frames pass the encoder or a frame block together; None: all of them.
    `draws_random_numbers` says whether blocks do, in training.
    """

    recomputes_segments = False
    draws_random_numbers = False
    frames_per_pass: int | None = None

    def __init__(self, config: Scal3RConfig) -> None:
        """Build with the sizes of `config`."""
        super().__init__()
        self.num_layers = config.num_layers
        self.patch_size = config.patch_size
        self.head_dim = config.hidden_size // config.num_heads
        self.rope_frequency = config.rope_frequency
        self.num_special_tokens = config.num_special_tokens
        self.memory_scope = config.memory_scope
        dim = config.hidden_size
        self.patch_embed = build_patch_encoder(config)
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.empty(1, 2, config.num_register_tokens, dim))
        self.frame_blocks = nn.ModuleList(AggregatorBlock(config) for _ in range(config.num_layers))
        self.global_blocks = nn.ModuleList(AggregatorBlock(config) for _ in range(config.num_layers))
        self.memory_units = nn.ModuleDict({str(j): AdaptiveMemoryUnit(config) for j in config.memory_layers})

    def forward(
        self, batches: Sequence[ImageBatch], num_sequences: int, tap_layers: Sequence[int]
    ) -> list[ChunkFeatures]:
        """Return, for each image batch, the taps of the requested layers or `EMBEDDING`, and the measured motion."""
        if self.memory_scope == "sequence":
            return self._run(batches, num_sequences, tap_layers)
        starts = [0, *accumulate(batch.images.shape[:2].numel() for batch in batches)]
        alone = [batch.one_row_per_chunk(start) for batch, start in zip(batches, starts, strict=False)]
        features = self._run(alone, starts[-1], tap_layers)
        return [
            of_batch.with_chunks_of(len(batch.images))
            for batch, of_batch in zip(batches, features, strict=True)
        ]

    def _run(
        self, batches: Sequence[ImageBatch], num_sequences: int, tap_layers: Sequence[int]
    ) -> list[ChunkFeatures]:
        states = [_before_layers(self.embed(batch), tap_layers) for batch in batches]
        read: MemoryRead | None = None
        queries: list[Tensor | None] = [None] * len(states)
        for layers in [*self.segments(), range(self.num_layers, self.num_layers)]:
            passed = [
                self._recomputed(self.forward_segment, state, read, asked, layers, tap_layers)
                for state, asked in zip(states, queries, strict=True)
            ]
            states = [state for state, _ in passed]
            unit = self.memory_after(layers)
            if unit is None:
                break
            in_order = [state.batch for state in states]
            gradients = [gradient for _, gradient in passed if gradient is not None]
            finish = unit.start_sum(in_order, gradients, num_sequences)
            # Queries need no sum: they are made while it is under way, unless the next region makes them itself.
            queries = [None if self.recomputes_segments else unit.queries(batch) for batch in in_order]
            read = MemoryRead(layers[-1], unit, unit.updated_weights(finish()))
        return [ChunkFeatures(state.taps, state.batch.motion) for state in states]

    def memory_after(self, layers: range) -> AdaptiveMemoryUnit | None:
        """Return the memory at the end of consecutive layers, if there is one."""
        name = str(layers[-1]) if layers else ""
        if name not in self.memory_units:
            return None
        unit = self.memory_units[name]
        assert isinstance(unit, AdaptiveMemoryUnit)
        return unit

    def segments(self) -> list[range]:
        """Return the layers of each segment: a segment ends with a memory layer, the last with the network."""
        ends = sorted({int(j) for j in self.memory_units} | {self.num_layers - 1})
        starts = [0, *(end + 1 for end in ends[:-1])]
        return [range(start, end + 1) for start, end in zip(starts, ends, strict=True)]

    def embed(self, batch: ImageBatch) -> ChunkBatch:
        """Return the tokens of a batch of images in [0, 1], frames reordered reference first.

        docs/numerics.md#chunks and docs/numerics.md#tokens state order and tokens.
        """
        height, width = batch.images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image size {height}x{width} must be a multiple of the patch size {self.patch_size}"
            )
        images = normalize_images(batch.images.to(self.camera_token.dtype))
        patches, motion = self._recomputed(self._encode, images, batch.fov)
        patches = reference_first(patches, dim=2)
        num_sequences, num_chunks, num_frames = patches.shape[:3]
        reference, others = torch.cat([self.camera_token, self.register_token], dim=2)[0].to(patches.dtype)
        special = torch.cat([reference[None], others.expand(num_frames - 1, -1, -1)])
        special = special.expand(num_sequences, num_chunks, -1, -1, -1)
        grid = height // self.patch_size, width // self.patch_size
        positions = TokenPositions(token_positions(*grid, self.num_special_tokens, patches.device))
        tokens = torch.cat([special, patches], dim=3)
        return ChunkBatch(tokens, positions, batch.sequences, batch.chunk_mask, motion)

    def _encode(self, images: Tensor, fov: Tensor | None) -> tuple[Tensor, MotionEstimate | None]:
        """Return the patch tokens [B, K, S, N, C] of normalised images, and the motion if the encoder measures it."""
        if isinstance(self.patch_embed, DirectPatchEncoder):
            tokens, *motion = self.patch_embed(images, fov)
            return tokens, MotionEstimate(*motion)
        return self._patch_tokens(images), None

    def _patch_tokens(self, images: Tensor) -> Tensor:
        if self.frames_per_pass is None or not self.patch_embed.frames_are_independent:
            return self.patch_embed(images)
        num_sequences, num_chunks = images.shape[:2]
        frames = rearrange(images, "b k s c h w -> (b k s) c h w").split(self.frames_per_pass)
        tokens = torch.cat([self.patch_embed(part) for part in frames])
        return rearrange(tokens, "(b k s) n c -> b k s n c", b=num_sequences, k=num_chunks)

    def forward_segment(
        self,
        state: AggregatorState,
        read: MemoryRead | None,
        queries: Tensor | None,
        layers: range,
        tap_layers: Sequence[int],
        read_tap: TapReader = keep_tap,
        *,
        writes: bool = True,
    ) -> tuple[AggregatorState, FastWeights | None]:
        """Pass one chunk batch through a segment: from an updated memory to the gradient for the next one.

        Apply the memory to `read`, if any, pass consecutive layers, and return the chunks' gradient for the memory
        behind them, if there is one and this pass `writes`. What depends on other chunks and processes happens between
        segments: `_run` does it for all chunks of a rank at once, inference/network/segment_schedule.py chunk by chunk.
        """
        if read is not None:
            batch = read.unit.apply_weights(state.batch, read.weights, queries)
            state = _after_memory(state, batch, read.layer, read_tap)
        state = self._run_layers(state, layers, tap_layers, read_tap)
        unit = self.memory_after(layers) if writes else None
        return state, None if unit is None else unit.chunk_gradient(state.batch)

    def _run_layers(
        self, state: AggregatorState, layers: range, tap_layers: Sequence[int], read_tap: TapReader
    ) -> AggregatorState:
        """Pass one chunk batch through consecutive layers, before the memory of the last one."""
        x, taps, pending = state.batch.tokens, dict(state.taps), None
        num_sequences, num_chunks, num_frames = x.shape[:3]
        table = state.batch.positions.table(self.head_dim, self.rope_frequency, x.dtype)
        for j in layers:
            frames = rearrange(x, "b k s p c -> (b k s) p c")
            parts = [
                self.frame_blocks[j](part, table)
                for part in frames.split(self.frames_per_pass or len(frames))
            ]
            frames = parts[0] if len(parts) == 1 else torch.cat(parts)
            frame_half = rearrange(frames, "(b k s) p c -> b k s p c", b=num_sequences, k=num_chunks)
            chunks = self.global_blocks[j](rearrange(frame_half, "b k s p c -> (b k) (s p) c"), table)
            x = rearrange(chunks, "(b k) (s p) c -> b k s p c", b=num_sequences, s=num_frames)
            if j in tap_layers and str(j) in self.memory_units:
                pending = frame_half
            elif j in tap_layers:
                taps[j] = read_tap(j, Tap(frame_half, x))
        return AggregatorState(state.batch.with_tokens(x), taps, pending)

    def _recomputed(self, function: Callable[..., Result], *inputs: Any) -> Result:
        """Call `function` on a region between two memories, again in backward when segments are recomputed."""
        if self.recomputes_segments and self.training:
            return recompute(function, *inputs, draws=self.draws_random_numbers)
        return function(*inputs)


def _before_layers(batch: ChunkBatch, tap_layers: Sequence[int]) -> AggregatorState:
    return AggregatorState(
        batch, {EMBEDDING: Tap(batch.tokens, batch.tokens)} if EMBEDDING in tap_layers else {}
    )


def _after_memory(
    state: AggregatorState, batch: ChunkBatch, layer: int, read_tap: TapReader
) -> AggregatorState:
    if state.pending_frame_half is None:
        return replace(state, batch=batch)
    tap = read_tap(layer, Tap(state.pending_frame_half, batch.tokens))
    return AggregatorState(batch, {**state.taps, layer: tap})
