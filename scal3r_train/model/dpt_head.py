"""DPT head: dense depth or points from four feature taps.

docs/numerics.md#dpt-heads has every layer. Source: Ranftl et al., Vision Transformers for Dense
Prediction, ICCV 2021.

Shapes: A frames, N = h w patches, C = 2 * hidden size channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from scal3r_train.model.activation_checkpointing import Recomputed
from scal3r_train.model.block import InputCastingLayerNorm
from scal3r_train.model.configuration_scal3r import Scal3RConfig

HEAD_NORM_EPS = 1e-5
POSITION_FREQUENCY = 100.0
POSITION_SCALE = 0.1

DenseActivation = Literal["exp", "inverse_log"]


def position_map(channels: int, height: int, width: int, aspect: float, device: torch.device) -> Tensor:
    """Return the sinusoidal map E of a feature grid, [channels, height, width] float32, computed in float64.

    `aspect` is image width over height; coordinates span the unit-diagonal image, centres of its outer pixels.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    quarter = channels // 4
    order = torch.arange(quarter, dtype=torch.float64, device=device) / quarter
    frequencies = POSITION_FREQUENCY**-order

    def axis(size: int, extent: float) -> tuple[Tensor, Tensor]:
        limit = extent * (size - 1) / size
        angles = (
            torch.linspace(-limit, limit, size, dtype=torch.float64, device=device)[:, None] * frequencies
        )
        # Rounded before they fill the map, which at full resolution takes 200 MB in float64.
        sin, cos = ((POSITION_SCALE * table.T).float() for table in (angles.sin(), angles.cos()))
        return sin, cos

    sin_u, cos_u = (repeat(table, "c w -> c h w", h=height) for table in axis(width, aspect / diagonal))
    sin_v, cos_v = (repeat(table, "c h -> c h w", w=width) for table in axis(height, 1 / diagonal))
    return torch.cat([sin_u, cos_u, sin_v, cos_v])


class ResidualConvUnit(nn.Module):
    """Two convolutions around a rectified skip: the released weights expect ReLU(x), not x, on the skip path."""

    def __init__(self, features: int) -> None:
        """Keep `features` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x, [A, features, h, w]."""
        rectified = F.relu(x)
        return self.conv2(F.relu(self.conv1(rectified))) + rectified


class FusionBlock(nn.Module):
    """Add a lateral map to the coarser one, refine and resize to the next finer map."""

    def __init__(self, features: int, *, has_lateral: bool) -> None:
        """Build; the coarsest level has no coarser map to add."""
        super().__init__()
        if has_lateral:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, lateral: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return the fused map at `size`, [A, features, *size]."""
        x = lateral if coarser is None else coarser + self.resConfUnit1(lateral)
        x = self.resConfUnit2(x)
        return self.out_conv(F.interpolate(x, size=size, mode="bilinear", align_corners=True))


class Scratch(nn.Module):
    """The convolutions trained from scratch in DPT, under their published names."""

    def __init__(self, channels: list[int], features: int, refine_channels: int, out_channels: int) -> None:
        """Map four lateral widths to `features`, then to the output."""
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(width, features, 3, padding=1, bias=False) for width in channels
        )
        self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4 = (
            FusionBlock(features, has_lateral=level < 4) for level in (1, 2, 3, 4)
        )
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, refine_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(refine_channels, out_channels, 1),
        )

    def fuse(self, levels: list[Tensor]) -> Tensor:
        """Fuse four maps, finest first, to twice the finest size, [A, features, 2h, 2w]."""
        convolutions = (self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn)
        laterals = [convolution(level) for convolution, level in zip(convolutions, levels, strict=True)]
        finest = (2 * laterals[0].shape[-2], 2 * laterals[0].shape[-1])
        sizes = [finest, *((lateral.shape[-2], lateral.shape[-1]) for lateral in laterals[:3])]
        fusions = (self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4)
        x: Tensor | None = None
        for fusion, lateral, size in reversed(list(zip(fusions, laterals, sizes, strict=True))):
            x = fusion(lateral, x, size)
        assert x is not None
        return x


class DPTHead(Recomputed):
    """Predict a dense map and its confidence per frame; frames are independent."""

    def __init__(self, config: Scal3RConfig, out_channels: int, activation: DenseActivation) -> None:
        """Build; the last of `out_channels` is the confidence."""
        super().__init__()
        dim, channels = 2 * config.hidden_size, config.dpt_channels
        self.patch_size = config.patch_size
        self.frames_per_pass = config.dpt_frames_per_pass
        self.activation = activation
        self.norm = InputCastingLayerNorm(dim, eps=HEAD_NORM_EPS)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(channels, config.dpt_features, config.dpt_refine_channels, out_channels)

    def forward(self, taps: Sequence[Sequence[Tensor]], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return values [A, H, W, out_channels - 1] and confidence [A, H, W] from four taps.

        A tap comes in parts [A, P, c] whose channels add up to C; the last N of their P tokens are the patches. Frames
        pass `dpt_frames_per_pass` at a time, which bounds the memory of joined taps and full-resolution maps.
        """
        passes = []
        for start in range(0, len(taps[0][0]), self.frames_per_pass):
            frames = slice(start, start + self.frames_per_pass)
            passes.append(
                self.recomputed(self._decode_taps, [[part[frames] for part in tap] for tap in taps], grid)
            )
        return self._activated(torch.cat(passes))

    def decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what `forward` returns, from the four `compressed` maps, [A, c_level, h, w]."""
        passes = zip(*(level.split(self.frames_per_pass) for level in maps), strict=True)
        return self._activated(torch.cat([self._decode(levels) for levels in passes]))

    def _decode_taps(self, taps: list[list[Tensor]], grid: tuple[int, int]) -> Tensor:
        return self._decode([self.compressed(level, tap, grid) for level, tap in enumerate(taps)])

    def _decode(self, maps: Sequence[Tensor]) -> Tensor:
        grid = maps[0].shape[-2:]
        height, width = grid[0] * self.patch_size, grid[1] * self.patch_size
        levels = [self._resized(level, compressed) for level, compressed in enumerate(maps)]
        x = self.scratch.output_conv1(self.scratch.fuse(levels))
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)
        return self.scratch.output_conv2(self._add_positions(x, width / height))

    def project(self, level: int, tap: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return one tap, [A, N, C], as a normalised, projected and resized feature map."""
        return self._resized(level, self.compressed(level, [tap], grid))

    def compressed(self, level: int, parts: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return all that this head keeps of one tap, [A, c_level, h, w], from parts as `forward` takes them."""
        patches = torch.cat([part[:, -math.prod(grid) :] for part in parts], dim=-1)
        maps = rearrange(self.norm(patches), "a (h w) c -> a c h w", h=grid[0], w=grid[1])
        return self.projects[level](maps)

    def _resized(self, level: int, compressed: Tensor) -> Tensor:
        aspect = compressed.shape[-1] / compressed.shape[-2]
        return self.resize_layers[level](self._add_positions(compressed, aspect))

    def _add_positions(self, x: Tensor, aspect: float) -> Tensor:
        return x + position_map(x.shape[1], x.shape[2], x.shape[3], aspect, x.device).to(x.dtype)

    def _activated(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and confidence, channels last, from outputs [A, out_channels, H, W]."""
        raw = rearrange(raw, "a c h w -> a h w c")
        return self._activate(raw[..., :-1]), 1 + raw[..., -1].exp()

    def _activate(self, values: Tensor) -> Tensor:
        if self.activation == "exp":
            return values.exp()
        return values.sign() * values.abs().expm1()
