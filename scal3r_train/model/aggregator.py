"""Alternating frame and global attention, cut into segments by the Adaptive Memory Units (SPEC 3.3, 3.5).

Shapes: B sequences, K chunks, S frames, P tokens of a frame (camera, registers, patches), C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.block import CheckpointedBlock
from scal3r_train.model.chunk_batch import ChunkBatch, ImageBatch, reference_first_order
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.patch_encoder import build_patch_encoder
from scal3r_train.model.rope import RotaryTable, rotary_table, token_positions

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
AGGREGATOR_NORM_EPS = 1e-5


def normalize_images(images: Tensor) -> Tensor:
    """Return images [..., 3, H, W] in [0, 1] with ImageNet's mean and standard deviation removed."""
    mean = images.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGE_STD).view(3, 1, 1)
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


@dataclass(frozen=True)
class AggregatorState:
    """What the aggregator carries for one chunk batch between segments.

    Attributes:
        batch: the chunks' current tokens.
        taps: per tapped layer, concat(frame-block output, layer output), [B, K, S, P, 2C].
        pending_frame_half: frame-block output of a tapped layer whose memory has not been applied yet.
    """

    batch: ChunkBatch
    taps: dict[int, Tensor]
    pending_frame_half: Tensor | None = None


class Aggregator(nn.Module):
    """Patch encoder, special tokens, alternating attention and memories."""

    def __init__(self, config: Scal3RConfig) -> None:
        """Build with the sizes of `config`."""
        super().__init__()
        self.num_layers = config.num_layers
        self.patch_size = config.patch_size
        self.head_dim = config.hidden_size // config.num_heads
        self.rope_frequency = config.rope_frequency
        self.num_special_tokens = config.num_special_tokens
        dim = config.hidden_size
        self.patch_embed = build_patch_encoder(config)
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.empty(1, 2, config.num_register_tokens, dim))
        self.frame_blocks = nn.ModuleList(AggregatorBlock(config) for _ in range(config.num_layers))
        self.global_blocks = nn.ModuleList(AggregatorBlock(config) for _ in range(config.num_layers))
        self.memory_units = nn.ModuleDict({str(j): AdaptiveMemoryUnit(config) for j in config.memory_layers})

    def forward(
        self, batches: Sequence[ImageBatch], num_sequences: int, tap_layers: Sequence[int]
    ) -> list[dict[int, Tensor]]:
        """Return, for each image batch, the requested taps, [B, K, S, P, 2C], frames in processing order."""
        states = [AggregatorState(self.embed(batch), {}) for batch in batches]
        for layers in self.segments():
            states = [self.run_segment(state, layers, tap_layers) for state in states]
            memory = str(layers[-1])
            if memory in self.memory_units:
                read = self.memory_units[memory]([state.batch for state in states], num_sequences)
                states = [
                    _after_memory(state, batch, layers[-1]) for state, batch in zip(states, read, strict=True)
                ]
        return [state.taps for state in states]

    def segments(self) -> list[range]:
        """Return the layers of each segment: a segment ends with a memory layer, the last with the network."""
        ends = sorted({int(j) for j in self.memory_units} | {self.num_layers - 1})
        starts = [0, *(end + 1 for end in ends[:-1])]
        return [range(start, end + 1) for start, end in zip(starts, ends, strict=True)]

    def embed(self, batch: ImageBatch) -> ChunkBatch:
        """Return the tokens of a batch of images in [0, 1], frames reordered reference first (SPEC 2, 3.3)."""
        height, width = batch.images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image size {height}x{width} must be a multiple of the patch size {self.patch_size}"
            )
        patches = self.patch_embed(normalize_images(batch.images.to(self.camera_token.dtype)))
        patches = patches[:, :, reference_first_order(patches.shape[2])]
        special = torch.cat([self.camera_token, self.register_token], dim=2)[0].to(patches.dtype)
        num_sequences, num_chunks, num_frames = patches.shape[:3]
        roles = [0] + [1] * (num_frames - 1)
        special = special[roles].expand(num_sequences, num_chunks, -1, -1, -1)
        grid = height // self.patch_size, width // self.patch_size
        positions = token_positions(*grid, self.num_special_tokens, patches.device)
        return ChunkBatch(torch.cat([special, patches], dim=3), positions, batch.sequences, batch.chunk_mask)

    def run_segment(
        self, state: AggregatorState, layers: range, tap_layers: Sequence[int]
    ) -> AggregatorState:
        """Pass one chunk batch through consecutive layers, before the memory of the last one."""
        x, taps, pending = state.batch.tokens, dict(state.taps), None
        num_frames = x.shape[2]
        frame_table, global_table = self._rotary_tables(state.batch, num_frames)
        for j in layers:
            x = self.frame_blocks[j](x.flatten(0, 2), frame_table).reshape(x.shape)
            frame_half = x
            x = self.global_blocks[j](x.flatten(0, 1).flatten(1, 2), global_table).reshape(x.shape)
            if j in tap_layers and str(j) in self.memory_units:
                pending = frame_half
            elif j in tap_layers:
                taps[j] = torch.cat([frame_half, x], dim=-1)
        return AggregatorState(state.batch.with_tokens(x), taps, pending)

    def _rotary_tables(
        self, batch: ChunkBatch, num_frames: int
    ) -> tuple[RotaryTable | None, RotaryTable | None]:
        if self.rope_frequency == 0:
            return None, None
        table = rotary_table(batch.positions, self.head_dim, self.rope_frequency, batch.tokens.dtype)
        return table, table.tile(num_frames)


def _after_memory(state: AggregatorState, batch: ChunkBatch, layer: int) -> AggregatorState:
    if state.pending_frame_half is None:
        return replace(state, batch=batch)
    tap = torch.cat([state.pending_frame_half, batch.tokens], dim=-1)
    return AggregatorState(batch, {**state.taps, layer: tap})
