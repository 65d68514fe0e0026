"""From images to patch tokens: a DINOv2 encoder or a single strided convolution (SPEC 3.2).

Shapes: A frames, N patches (row-major), R register tokens, C channels, H W pixels. The encoder keeps the published
parameter names, so checkpoints do not depend on another library's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scal3r_train.model.block import CheckpointedBlock
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.correlation_encoder import CorrelationPatchEncoder

ENCODER_NORM_EPS = 1e-6


class ConvPatchEncoder(nn.Module):
    """One strided convolution per patch; no normalisation, no positions."""

    frames_are_independent = True

    def __init__(self, patch_size: int, dim: int) -> None:
        """Map patch_size x patch_size pixels to `dim` channels."""
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images, [..., S, 3, H, W], to [..., S, N, C]."""
        tokens = self.proj(images.flatten(0, -4)).flatten(2).mT
        return tokens.unflatten(0, images.shape[:-3])


class EncoderBlock(CheckpointedBlock):
    """A transformer block with the encoder's settings."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        """Build with LayerScale 1, no qk-norm and the encoder's epsilon."""
        super().__init__(
            dim, num_heads, mlp_ratio, layer_scale_init=1.0, qk_norm=False, norm_eps=ENCODER_NORM_EPS
        )


class DinoPatchEncoder(nn.Module):
    """DINOv2 vision transformer with register tokens; returns the normalised patch tokens."""

    frames_are_independent = True

    def __init__(self, config: Scal3RConfig) -> None:
        """Build the encoder with the sizes of `config`."""
        super().__init__()
        dim = config.hidden_size
        self.grid_size = config.image_size // config.patch_size
        self.antialias = config.encoder_antialias
        self.position_offset = config.encoder_position_offset
        self.num_register_tokens = config.num_register_tokens
        self.patch_embed = ConvPatchEncoder(config.patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_size**2, dim))
        if config.num_register_tokens > 0:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        # Part of the published state dict, never used: frozen, so that no engine waits for its gradient.
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.blocks = nn.ModuleList(
            EncoderBlock(dim, config.encoder_heads, config.mlp_ratio) for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=ENCODER_NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images, [..., S, 3, H, W], to patch tokens [..., S, N, C]."""
        tokens = self.encode(images.flatten(0, -4))
        return tokens[:, 1 + self.num_register_tokens :].unflatten(0, images.shape[:-3])

    def encode(self, images: Tensor) -> Tensor:
        """Return all final tokens of images [A, 3, H, W]: cls, registers, patches, [A, 1 + R + N, C]."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens before the first block, [A, 1 + R + N, C]."""
        patch_size = self.patch_embed.proj.kernel_size[0]
        grid = (images.shape[-2] // patch_size, images.shape[-1] // patch_size)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1)
        x = x + self.positions(*grid).to(x.dtype)
        if self.num_register_tokens == 0:
            return x
        registers = self.register_tokens.expand(len(images), -1, -1)
        return torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)

    def positions(self, grid_height: int, grid_width: int) -> Tensor:
        """Return the positional embedding of cls and a grid of patches, [1, 1 + N, C], resampled when it differs."""
        if grid_height == grid_width == self.grid_size:
            return self.pos_embed
        stored = self.pos_embed.to(torch.promote_types(self.pos_embed.dtype, torch.float32))
        cls, patches = stored[:, :1], stored[:, 1:]
        grid = patches.mT.unflatten(2, (self.grid_size, self.grid_size))
        if self.position_offset > 0:
            scale = [(side + self.position_offset) / self.grid_size for side in (grid_height, grid_width)]
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=self.antialias)
        else:
            grid = F.interpolate(
                grid, size=(grid_height, grid_width), mode="bicubic", antialias=self.antialias
            )
        return torch.cat([cls, grid.flatten(2).mT], dim=1)


def build_patch_encoder(config: Scal3RConfig) -> nn.Module:
    """Return the patch encoder that `config.patch_encoder` names."""
    if config.patch_encoder == "dinov2":
        return DinoPatchEncoder(config)
    if config.patch_encoder == "correlation":
        return CorrelationPatchEncoder(config)
    return ConvPatchEncoder(config.patch_size, config.hidden_size)
