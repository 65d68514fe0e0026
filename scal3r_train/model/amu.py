"""The Adaptive Memory Unit: a fast-weight network written by all chunks of a sequence and read by each.

docs/model.md#the-memory explains it, docs/numerics.md#memory-gradient and the sections after it have the numerics.

Shapes: B sequences, K chunks, S frames, N patch tokens of a frame, L = K S N, C channels, E memory heads, D = C / E
head dimension, M inner dimension. Tokens of a chunk batch are [B, K, S, P, C] with P = special tokens + N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scal3r_train.model import fast_weight
from scal3r_train.model.activation_checkpointing import Recomputed
from scal3r_train.model.chunk_batch import ChunkBatch
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.fast_weight import FastWeights, TokenRates
from scal3r_train.model.rope import RotaryTable, rotate

QK_NORM_EPS = float(torch.finfo(torch.float32).eps)
OUTPUT_NORM_EPS = 1e-5
MODULATION_NORM_EPS = 1e-6

MemoryPart = Literal["write", "query", "update", "read"]
StartedSum = Callable[[], Tensor]
GradientSum = Callable[[Tensor], StartedSum]


def keep_local(gradient: Tensor) -> StartedSum:
    """Return the gradient as it is once asked for: the context of one process is its own chunks."""
    return lambda: gradient


class MemoryObserver(Protocol):
    """Is shown what a memory does, for logging; it must leave tensors and graph as they are."""

    def saw_update(self, weights: FastWeights, gradient: FastWeights, updated: FastWeights) -> None:
        """See the fast weights [E, ...], the summed gradient and the updated fast weights, [B, E, ...] each."""

    def saw_gate(self, gate: Tensor, chunk_mask: Tensor | None) -> None:
        """See the gate of a batch's patch tokens, [B, K, S, N, C]; chunk_mask [B, K] is False for padding."""


class RowLinear(nn.Linear):
    """A linear layer that can compute some of its output rows alone, in the input's dtype."""

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Map x, [..., C], to the given rows."""
        return F.linear(x, self.weight[rows].to(x.dtype), self.bias[rows].to(x.dtype))


class AdaptiveMemoryUnit(Recomputed):
    """One memory: chunk gradients are summed, the fast weights updated once, and applied to every chunk.

    In order: `chunk_gradient` of every batch, one `start_sum` over all of them, `queries`, which need no sum, then
    `updated_weights` of what the sum returns, and `apply_weights` for every batch. Each of these except the sum is one
    call of the module: sharding engines hold its parameters during its calls only.

    `sum_over_context` receives the fused gradient of the sequences held here, [B, numel(w0) + numel(w1) + numel(w2)],
    starts its sum over the processes that hold other chunks of the same sequences, and returns a function that
    returns it. It must be differentiable. Every process that shares a sequence must start as many sums, also alone.
    All maths runs in at least float32, whatever autocast says (precision.py says where in TF32). Nothing persists from
    one sequence to the next.
    `frames_per_pass` bounds how many frames of every chunk are written or read together (the gradient is a sum over
    tokens, an answer that of one token, so this changes rounding only); None: all.
    """

    frames_per_pass: int | None = None

    def __init__(self, config: Scal3RConfig) -> None:
        """Build the memory with the sizes of `config`; values are set by the model's weight initialisation."""
        super().__init__()
        dim = config.hidden_size
        self.head_dim = dim // config.memory_heads
        inner_dim = config.memory_expansion * self.head_dim
        self.scope = config.memory_scope
        self.num_heads = config.memory_heads
        self.num_special_tokens = config.num_special_tokens
        self.rope_frequency = config.rope_frequency
        self.num_steps = config.newton_schulz_steps
        self.newton_schulz_dtype = config.newton_schulz_dtype
        self.base_lr = config.memory_base_lr
        self.gate_init = config.memory_gate_init
        wide, tall = (self.num_heads, self.head_dim, inner_dim), (self.num_heads, inner_dim, self.head_dim)
        self.shapes = (wide, tall, wide)
        self.w0, self.w1, self.w2 = (nn.Parameter(torch.empty(shape)) for shape in self.shapes)
        self.qkv = RowLinear(dim, 3 * dim)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=QK_NORM_EPS)
        self.k_norm = nn.RMSNorm(self.head_dim, eps=QK_NORM_EPS)
        self.lrs = RowLinear(dim, 3 * self.num_heads)
        self.o_norm = nn.RMSNorm(self.head_dim, eps=OUTPUT_NORM_EPS)
        self.proj = RowLinear(dim, 3 * dim)
        self.sum_over_context: GradientSum = keep_local
        self.observer: MemoryObserver | None = None

    def chunk_gradient(self, batch: ChunkBatch) -> FastWeights:
        """Return the ascent gradient of the batch's own chunks, one per sequence, [B, E, ...].

        docs/numerics.md#memory-gradient.

        Padding chunks contribute exactly zero: their token learning rates are masked.
        """
        table, mask = self._table(batch), batch.chunk_mask
        parts = [self.recomputed(self, "write", part, table, mask) for part in self._passes(batch.tokens)]
        return fast_weight.summed(parts)

    def queries(self, batch: ChunkBatch) -> Tensor:
        """Return what the batch will ask the updated weights, [B, E, L, D]."""
        return self.recomputed(self, "query", batch.tokens, self._table(batch))

    def updated_weights(self, gradient: FastWeights) -> FastWeights:
        """Return the fast weights of each sequence after one update, [B, E, ...].

        docs/numerics.md#memory-update.

        Never recomputed: the orthogonalisation runs once a sequence.
        """
        return self("update", *gradient)

    def apply_weights(
        self, batch: ChunkBatch, weights: FastWeights, queries: Tensor | None = None
    ) -> ChunkBatch:
        """Return the batch with the memory's answers added to its patch tokens; special tokens stay as they are.

        `queries` are those of `queries(batch)`, made here when not given.
        """
        if batch.sequences != tuple(range(len(weights.w0))):
            weights = FastWeights(*(_rows(matrix, batch.sequences) for matrix in weights))
        table, mask = self._table(batch), batch.chunk_mask
        # Queries that have been made for all frames are in memory already: nothing is saved by cutting.
        passes = self._passes(batch.tokens) if queries is None else (batch.tokens,)
        parts = [self.recomputed(self, "read", part, table, mask, queries, *weights) for part in passes]
        return batch.with_tokens(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))

    def forward(self, part: MemoryPart, *inputs: Any) -> Any:
        """Run one part of the memory on plain tensors; the methods above say what each takes and returns."""
        parts: dict[MemoryPart, Callable[..., Any]]
        parts = {"write": self._write, "query": self._query, "update": self._update, "read": self._read}
        with torch.autocast(inputs[0].device.type, enabled=False):
            return parts[part](*inputs)

    def start_sum(
        self, batches: Sequence[ChunkBatch], gradients: Sequence[FastWeights], num_sequences: int
    ) -> Callable[[], FastWeights]:
        """Start the one sum over all chunks of each sequence, here and elsewhere (docs/numerics.md#sum-over-chunks).

        The returned function waits for it and returns the gradient of each sequence, [B, E, ...].
        """
        everything = tuple(range(num_sequences))
        if batches and all(batch.sequences == everything for batch in batches):
            local = fast_weight.summed(gradients)
        else:
            local = self._gather_sequences(batches, gradients, num_sequences)
        start = keep_local if self.scope == "chunk" else self.sum_over_context
        finish = start(torch.cat([matrix.flatten(1) for matrix in local], dim=1))
        return lambda: self._unfuse(finish())

    def _gather_sequences(
        self, batches: Sequence[ChunkBatch], gradients: Sequence[FastWeights], num_sequences: int
    ) -> FastWeights:
        """Return the sum over batches per sequence; a sequence without chunks here gets zeros."""
        like = gradients[0].w0 if gradients else self.w0
        dtype = torch.promote_types(like.dtype, torch.float32)
        zeros = [torch.zeros(shape, dtype=dtype, device=like.device) for shape in self.shapes]
        sums = [[zero] * num_sequences for zero in zeros]
        for batch, gradient in zip(batches, gradients, strict=True):
            for row, sequence in enumerate(batch.sequences):
                for matrix in range(3):
                    sums[matrix][sequence] = sums[matrix][sequence] + gradient[matrix][row]
        return FastWeights(*(torch.stack(matrix) for matrix in sums))

    def _unfuse(self, fused: Tensor) -> FastWeights:
        parts = fused.split([math.prod(shape) for shape in self.shapes], dim=1)
        return FastWeights(
            *(part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True))
        )

    def _passes(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return tokens [B, K, S, P, C] in parts of at most `frames_per_pass` frames."""
        return tokens.split(self.frames_per_pass or tokens.shape[2], dim=2)

    def _table(self, batch: ChunkBatch) -> RotaryTable | None:
        """Return the rotary table of the patch tokens."""
        dtype = torch.promote_types(batch.tokens.dtype, torch.float32)
        table = batch.positions.table(self.head_dim, self.rope_frequency, dtype)
        return None if table is None else table.from_token(self.num_special_tokens)

    def _write(self, tokens: Tensor, table: RotaryTable | None, chunk_mask: Tensor | None) -> FastWeights:
        x = self.patch_tokens(tokens)
        keys, values = rearrange(
            self.qkv(x, slice(x.shape[-1], None)),
            "b k s n (kv e d) -> kv b k s n e d",
            kv=2,
            e=self.num_heads,
        )
        keys = _rotated(_tokens_per_head(self.k_norm(keys)), table)
        weights = FastWeights(*(w.to(x.dtype) for w in (self.w0, self.w1, self.w2)))
        rates = self.token_rates(x, chunk_mask)
        return fast_weight.ascent_gradient(weights, keys, _tokens_per_head(values), rates)

    def _query(self, tokens: Tensor, table: RotaryTable | None) -> Tensor:
        x = self.patch_tokens(tokens)
        queries = rearrange(
            self.qkv(x, slice(0, x.shape[-1])), "b k s n (e d) -> b k s n e d", e=self.num_heads
        )
        return _rotated(_tokens_per_head(self.q_norm(queries)), table)

    def _update(self, *gradient: Tensor) -> FastWeights:
        dtype = gradient[0].dtype
        weights = FastWeights(*(w.to(dtype) for w in (self.w0, self.w1, self.w2)))
        iteration_dtype = torch.bfloat16 if self.newton_schulz_dtype == "bfloat16" else dtype
        updated = fast_weight.update(weights, FastWeights(*gradient), self.num_steps, iteration_dtype)
        if self.observer is not None:
            self.observer.saw_update(weights, FastWeights(*gradient), updated)
        return updated

    def _read(
        self,
        tokens: Tensor,
        table: RotaryTable | None,
        chunk_mask: Tensor | None,
        queries: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        queries = self._query(tokens, table) if queries is None else queries
        special, patches = tokens.tensor_split([self.num_special_tokens], dim=-2)
        answers = self.answers(queries, FastWeights(*weights)).reshape(patches.shape)
        return torch.cat([special, patches + self.modulated(answers, chunk_mask).to(tokens.dtype)], dim=-2)

    def answers(self, queries: Tensor, weights: FastWeights) -> Tensor:
        """Return the normalised fast-weight output for queries [B, E, L, D], [B, L, C].

        docs/numerics.md#memory-read.
        """
        of_heads = rearrange(fast_weight.forward(weights, queries), "b e l d -> b l e d")
        return rearrange(self.o_norm(of_heads), "b l e d -> b l (e d)")

    def modulated(self, answers: Tensor, chunk_mask: Tensor | None = None) -> Tensor:
        """Return gate * (LN(answers) * (1 + scale) + shift), all three predicted from the answers, [..., C]."""
        shift, scale, gate = self.proj(answers).chunk(3, dim=-1)
        if self.observer is not None:
            self.observer.saw_gate(gate, chunk_mask)
        normed = F.layer_norm(answers, answers.shape[-1:], eps=MODULATION_NORM_EPS)
        return gate * (normed * (1 + scale) + shift)

    def token_rates(self, x: Tensor, chunk_mask: Tensor | None) -> TokenRates:
        """Return the learning rates of patch tokens x, [B, K, S, N, C], zero in padding chunks.

        docs/numerics.md#memory-gradient.
        """
        offset = self.base_lr + math.log(-math.expm1(-self.base_lr))
        rates = rearrange(
            F.softplus(self.lrs(x) + offset), "b k s n (matrix e) -> b k s n matrix e", matrix=3
        )
        if chunk_mask is not None:
            rates = rates * rearrange(chunk_mask, "b k -> b k 1 1 1 1").to(rates.dtype)
        # Split before folded: the gradient then comes back contiguous, which decides how sums over it are rounded.
        return TokenRates(*(rearrange(rate, "b k s n e -> b e (k s n)") for rate in rates.unbind(-2)))

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """Return the patch tokens of tokens [B, K, S, P, C] in at least float32."""
        x = tokens[..., self.num_special_tokens :, :]
        return x.to(torch.promote_types(x.dtype, torch.float32))


def _rows(matrix: Tensor, sequences: Sequence[int]) -> Tensor:
    """Return the rows of some sequences without an index on the device: a view of the one or of those in a row."""
    first, count = sequences[0], len(sequences)
    if tuple(sequences) == tuple(range(first, first + count)):
        return matrix[first : first + count]
    return torch.stack([matrix[sequence] for sequence in sequences])


def _tokens_per_head(x: Tensor) -> Tensor:
    """Return [B, K, S, N, E, D] as [B, E, L, D]."""
    return rearrange(x, "b k s n e d -> b e (k s n) d")


def _rotated(x: Tensor, table: RotaryTable | None) -> Tensor:
    """Rotate queries or keys, [B, E, L, D], by their patch position."""
    return x if table is None else rotate(x, table)
