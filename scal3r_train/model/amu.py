"""The Adaptive Memory Unit: a fast-weight network written by all chunks of a sequence and read by each (SPEC 4).

Shapes: B sequences, K chunks, S frames, N patch tokens of a frame, C channels, E memory heads, D = C / E head
dimension, M inner dimension. Tokens of a chunk batch are [B, K, S, P, C] with P = special tokens + N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scal3r_train.model import fast_weight
from scal3r_train.model.chunk_batch import ChunkBatch
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.fast_weight import FastWeights, TokenRates
from scal3r_train.model.rope import RotaryTable, rotary_table, rotate

QK_NORM_EPS = float(torch.finfo(torch.float32).eps)
OUTPUT_NORM_EPS = 1e-5
MODULATION_NORM_EPS = 1e-6

GradientSum = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


class MemoryObserver(Protocol):
    """Is shown what a memory does, for logging; it must leave tensors and graph as they are."""

    def saw_update(self, weights: FastWeights, gradient: FastWeights, updated: FastWeights) -> None:
        """See the fast weights [E, ...], the summed gradient and the updated fast weights, [B, E, ...] each."""

    def saw_gate(self, gate: Tensor, chunk_mask: Tensor | None) -> None:
        """See the gate of a batch's patch tokens, [B, K, S, N, C]; chunk_mask [B, K] is False for padding."""


def keep_local(gradient: Tensor) -> Tensor:
    """Return the gradient as it is: the context of one process is its own chunks."""
    return gradient


class AdaptiveMemoryUnit(nn.Module):
    """One memory: chunk gradients are summed, the fast weights updated once, and applied to every chunk.

    `sum_over_context` receives the fused gradient of the sequences held here, [B, numel(w0) + numel(w1) + numel(w2)],
    and returns its sum over the processes that hold other chunks of the same sequences. It must be differentiable.
    All maths runs in at least float32, whatever autocast says. Nothing persists from one call to the next.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]  # set by gradient_checkpointing_enable

    def __init__(self, config: Scal3RConfig) -> None:
        """Build the memory with the sizes of `config`; values are set by the model's weight initialisation."""
        super().__init__()
        dim = config.hidden_size
        head_dim = dim // config.memory_heads
        inner_dim = config.memory_expansion * head_dim
        self.num_heads = config.memory_heads
        self.num_special_tokens = config.num_special_tokens
        self.rope_frequency = config.rope_frequency
        self.num_steps = config.newton_schulz_steps
        self.newton_schulz_dtype = config.newton_schulz_dtype
        self.base_lr = config.memory_base_lr
        self.gate_init = config.memory_gate_init
        self.w0 = nn.Parameter(torch.empty(self.num_heads, head_dim, inner_dim))
        self.w1 = nn.Parameter(torch.empty(self.num_heads, inner_dim, head_dim))
        self.w2 = nn.Parameter(torch.empty(self.num_heads, head_dim, inner_dim))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.RMSNorm(head_dim, eps=QK_NORM_EPS)
        self.k_norm = nn.RMSNorm(head_dim, eps=QK_NORM_EPS)
        self.lrs = nn.Linear(dim, 3 * self.num_heads)
        self.o_norm = nn.RMSNorm(head_dim, eps=OUTPUT_NORM_EPS)
        self.proj = nn.Linear(dim, 3 * dim)
        self.sum_over_context: GradientSum = keep_local
        self.observer: MemoryObserver | None = None

    def forward(self, batches: Sequence[ChunkBatch], num_sequences: int) -> list[ChunkBatch]:
        """Return the chunk batches with the memory's output added to their patch tokens.

        Every process that shares a sequence must call this the same number of times, also when it is alone.
        """
        gradient = self.summed_gradient(batches, num_sequences)
        weights = self.updated_weights(gradient)
        if self.observer is not None:
            self.observer.saw_update(FastWeights(self.w0, self.w1, self.w2), gradient, weights)
        return [self._checkpointed(self.apply_weights, batch, weights) for batch in batches]

    def summed_gradient(self, batches: Sequence[ChunkBatch], num_sequences: int) -> FastWeights:
        """Return the gradient of each sequence over all of its chunks, here and elsewhere, [B, E, ...] (SPEC 4.4)."""
        per_batch = [self._checkpointed(self.chunk_gradient, batch) for batch in batches]
        if len(batches) == 1 and batches[0].sequences == tuple(range(num_sequences)):
            local = per_batch[0]
        else:
            local = self._gather_sequences(batches, per_batch, num_sequences)
        fused = torch.cat([matrix.flatten(1) for matrix in local], dim=1)
        return self._unfuse(self.sum_over_context(fused))

    def _gather_sequences(
        self, batches: Sequence[ChunkBatch], gradients: Sequence[FastWeights], num_sequences: int
    ) -> FastWeights:
        """Return the sum over batches per sequence; a sequence without chunks here gets zeros."""
        like = gradients[0] if gradients else FastWeights(self.w0[None], self.w1[None], self.w2[None])
        sums = [[torch.zeros_like(matrix[0]) for _ in range(num_sequences)] for matrix in like]
        for batch, gradient in zip(batches, gradients, strict=True):
            for row, sequence in enumerate(batch.sequences):
                for matrix in range(3):
                    sums[matrix][sequence] = sums[matrix][sequence] + gradient[matrix][row]
        return FastWeights(*(torch.stack(matrix) for matrix in sums))

    def chunk_gradient(self, batch: ChunkBatch) -> FastWeights:
        """Return the ascent gradient of the batch's own chunks, one per sequence, [B, E, ...] (SPEC 4.2, 4.3).

        Padding chunks contribute exactly zero: their token learning rates are masked.
        """
        with torch.autocast(batch.tokens.device.type, enabled=False):
            x = self._patch_tokens(batch)
            dim = x.shape[-1]
            keys_values = self._linear(x, self.qkv, slice(dim, None)).unflatten(-1, (2, self.num_heads, -1))
            keys, values = keys_values.movedim(-3, 0)
            keys = self._rotate(self.k_norm(keys), batch)
            weights = FastWeights(*(w.to(x.dtype) for w in (self.w0, self.w1, self.w2)))
            return fast_weight.ascent_gradient(
                weights, _merge(keys), _merge(values), self._token_rates(x, batch)
            )

    def updated_weights(self, gradient: FastWeights) -> FastWeights:
        """Return the fast weights of each sequence after one update, [B, E, ...] (SPEC 4.5, 4.6)."""
        dtype = gradient.w0.dtype
        with torch.autocast(gradient.w0.device.type, enabled=False):
            weights = FastWeights(*(w.to(dtype) for w in (self.w0, self.w1, self.w2)))
            iteration_dtype = torch.bfloat16 if self.newton_schulz_dtype == "bfloat16" else dtype
            return fast_weight.update(weights, gradient, self.num_steps, iteration_dtype)

    def apply_weights(self, batch: ChunkBatch, weights: FastWeights) -> ChunkBatch:
        """Return the batch with the memory's output added to its patch tokens; special tokens stay as they are."""
        y = self.output(batch, weights).to(batch.tokens.dtype)
        special, patches = batch.tokens.tensor_split([self.num_special_tokens], dim=-2)
        return batch.with_tokens(torch.cat([special, patches + y], dim=-2))

    def output(self, batch: ChunkBatch, weights: FastWeights) -> Tensor:
        """Return what `weights`, [B, E, ...], answer to the batch's patch tokens, [B, K, S, N, C] (SPEC 4.7)."""
        with torch.autocast(batch.tokens.device.type, enabled=False):
            return self._modulated(self._read(self._patch_tokens(batch), batch, weights), batch.chunk_mask)

    def _read(self, x: Tensor, batch: ChunkBatch, weights: FastWeights) -> Tensor:
        """Return the normalised fast-weight output for the queries of x, [B, K, S, N, C]."""
        queries = self._linear(x, self.qkv, slice(0, x.shape[-1])).unflatten(-1, (self.num_heads, -1))
        queries = self._rotate(self.q_norm(queries), batch)
        rows = FastWeights(*(matrix[list(batch.sequences)] for matrix in weights))
        output = fast_weight.forward(rows, _merge(queries))
        output = self.o_norm(output.transpose(1, 2))
        return output.flatten(2).reshape(x.shape)

    def _modulated(self, output: Tensor, chunk_mask: Tensor | None) -> Tensor:
        """Return gate * (LN(output) * (1 + scale) + shift), all three predicted from the output."""
        shift, scale, gate = self._linear(output, self.proj, slice(None)).chunk(3, dim=-1)
        if self.observer is not None:
            self.observer.saw_gate(gate, chunk_mask)
        normed = F.layer_norm(output, output.shape[-1:], eps=MODULATION_NORM_EPS)
        return gate * (normed * (1 + scale) + shift)

    def _token_rates(self, x: Tensor, batch: ChunkBatch) -> TokenRates:
        offset = self.base_lr + math.log(-math.expm1(-self.base_lr))
        rates = F.softplus(self._linear(x, self.lrs, slice(None)) + offset).unflatten(-1, (3, self.num_heads))
        if batch.chunk_mask is not None:
            rates = rates * batch.chunk_mask[:, :, None, None, None, None].to(rates.dtype)
        return TokenRates(*(rate.flatten(1, 3).mT for rate in rates.unbind(-2)))

    def _patch_tokens(self, batch: ChunkBatch) -> Tensor:
        x = batch.tokens[..., self.num_special_tokens :, :]
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def _linear(self, x: Tensor, layer: nn.Linear, rows: slice) -> Tensor:
        """Apply the given output rows of a linear layer in x's dtype."""
        return F.linear(x, layer.weight[rows].to(x.dtype), layer.bias[rows].to(x.dtype))

    def _rotate(self, x: Tensor, batch: ChunkBatch) -> Tensor:
        """Rotate queries or keys, [B, K, S, N, E, D], by their patch position."""
        if self.rope_frequency == 0:
            return x
        positions = batch.positions[self.num_special_tokens :]
        table = rotary_table(positions, x.shape[-1], self.rope_frequency, x.dtype)
        return rotate(x, RotaryTable(table.cos[:, None], table.sin[:, None]))

    def _unfuse(self, fused: Tensor) -> FastWeights:
        shapes = [self.w0.shape, self.w1.shape, self.w2.shape]
        parts = fused.split([math.prod(shape) for shape in shapes], dim=1)
        return FastWeights(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))

    def _checkpointed(self, function: Callable[..., Result], *inputs: object) -> Result:
        """Call `function`, recomputing it in backward when activation checkpointing is on.

        The sum over the context stays outside, so recomputation never repeats a collective.
        """
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(function, *inputs)
        return function(*inputs)


def _merge(x: Tensor) -> Tensor:
    """Return [B, K, S, N, E, D] as [B, E, K * S * N, D]."""
    return x.flatten(1, 3).transpose(1, 2)
