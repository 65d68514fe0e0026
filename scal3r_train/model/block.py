"""The pre-norm transformer block used by the encoder, the aggregator and the camera head (docs/numerics.md#blocks).

Shapes: A independent sequences (frames or chunks), N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scal3r_train.model.activation_checkpointing import Recomputed
from scal3r_train.model.rope import RotaryTable, rotate

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class LayerScale(nn.Module):
    """Learned per-channel factor of a residual branch."""

    def __init__(self, dim: int, initial: float) -> None:
        """Start every channel at `initial`."""
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x, [..., C]."""
        return x * self.gamma


class InputCastingLayerNorm(nn.LayerNorm):
    """A LayerNorm at the entry of a head, which computes in the dtype of its own weights.

    docs/numerics.md#precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, [..., C], in the dtype of the weight."""
        return super().forward(x.to(self.weight.dtype))


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        """Map dim -> hidden_dim -> out_dim (dim when not given)."""
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim if out_dim is None else out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, [..., dim]."""
        return self.fc2(F.gelu(self.fc1(x)))


AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


def sdpa(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, **_options: Any
) -> tuple[Tensor, None]:
    """Attend by torch's fused kernels: queries, keys and values [A, h, N, d] to [A, N, h, d]."""
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2), None


def eager(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, **_options: Any
) -> tuple[Tensor, Tensor]:
    """Attend in plain operations, which shows the weights [A, h, N, N] and costs their memory."""
    weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
    return (weights @ value).transpose(1, 2), weights


def attention_function(name: str | None, dtype: torch.dtype) -> AttentionFunction:
    """Return the attention of a transformers name, in transformers' interface.

    The flash kernels know half precision only; float32 attention (the camera head's) takes sdpa beside them.

    Raises:
        KeyError: transformers knows no such attention.
    """
    is_half = dtype in (torch.bfloat16, torch.float16)
    if name in (None, "sdpa") or (name is not None and "flash" in name and not is_half):
        return sdpa
    if name == "eager":
        return eager
    # Imported here: it takes seconds, which the two above have no use for.
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: PLC0415

    return ALL_ATTENTION_FUNCTIONS[name]


class Attention(nn.Module):
    """Multi-head attention with optional qk-norm and rotary embedding.

    Attributes:
        config: of the model, whose `attn_implementation` names the kernel; None outside of a model: sdpa.
        is_causal: part of transformers' interface; every token attends to every other.
        recorded: where the weights [A, h, N, N] of every call go, which is then eager; None: nowhere.
    """

    config: PreTrainedConfig | None = None
    is_causal = False
    recorded: list[Tensor] | None = None

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool) -> None:
        """Split `dim` into `num_heads`; qk_norm adds a LayerNorm per head to queries and keys."""
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary: RotaryTable | None) -> Tensor:
        """Attend within each sequence of x, [A, N, C]; the rotary table's rows repeat along N."""
        q, k, v = rearrange(self.qkv(x), "a n (qkv h d) -> qkv a h n d", qkv=3, h=self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        name = None if self.config is None else self.config._attn_implementation
        attend = eager if self.recorded is not None else attention_function(name, v.dtype)
        y, weights = attend(
            self, q.to(v.dtype), k.to(v.dtype), v, None, scaling=q.shape[-1] ** -0.5, is_causal=False
        )
        if self.recorded is not None:
            assert weights is not None
            self.recorded.append(weights)
        return self.proj(rearrange(y, "a n h d -> a n (h d)"))


@contextmanager
def recorded_attention(blocks: Iterable[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Yield, for every block (`Block`), a list that the weights of its calls in the body are appended to."""
    attentions = [block.attn for block in blocks if isinstance(block, Block)]
    lists: list[list[Tensor]] = [[] for _ in attentions]
    try:
        for attention, weights in zip(attentions, lists, strict=True):
            attention.recorded = weights
        yield lists
    finally:
        for attention in attentions:
            attention.recorded = None


class Block(nn.Module):
    """Pre-norm attention and MLP branches, each with a LayerScale."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        layer_scale_init: float,
        *,
        qk_norm: bool,
        norm_eps: float,
    ) -> None:
        """Build the block; `norm_eps` is 1e-6 in the encoder and 1e-5 elsewhere."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim, layer_scale_init)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale_init)

    def forward(self, x: Tensor, rotary: RotaryTable | None = None) -> Tensor:
        """Update x, [A, N, C]."""
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        return x + self.ls2(self.mlp(self.norm2(x)))


class CheckpointedBlock(Recomputed, Block):
    """A block that can compute its activations again in backward, and run compiled."""

    _compiled: Callable[..., Tensor] | None = None

    def compile_region(self, backend: str) -> None:
        """Run compiled from now on; recomputation calls the compiled code again."""
        self._compiled = torch.compile(super().forward, backend=backend)

    def forward(self, x: Tensor, rotary: RotaryTable | None = None) -> Tensor:
        """Update x, [A, N, C]."""
        return self.recomputed(self._compiled or super().forward, x, rotary)
