"""Floating-point operations of one sequence's forward and backward in closed form, to the last one that torch counts.

Counted are matrix products and convolutions, as torch's FlopCounterMode does: a product of `m n k` multiplications and
additions is 2 m n k in forward, and as much again in backward for each of its two factors whose gradient is needed.
What activation checkpointing computes again is left out.

Shapes: K chunks, S frames, N patches, P = N + special tokens, C channels, D head dimension, M inner dimension.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scal3r_train.model.camera_head import POSE_SIZE
from scal3r_train.model.configuration_scal3r import Scal3RConfig

HEADS = ("camera", "depth", "points")


@dataclass(frozen=True)
class Work:
    """A sequence's chunks as tensors: K, S, and the patches of a frame as rows and columns."""

    num_chunks: int
    num_frames: int
    rows: int
    columns: int

    @property
    def frames(self) -> int:
        """Frames of all chunks."""
        return self.num_chunks * self.num_frames

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return self.rows * self.columns


class ProductFlops:
    """Counts the products of a network of which the parameters named in `trained` need a gradient."""

    def __init__(
        self,
        config: Scal3RConfig,
        trained: Collection[str],
        heads: Iterable[str] = HEADS,
        adapter_rank: int = 0,
    ) -> None:
        """Count for a step that runs these heads, of those that the network has; adapters' parameters are trained."""
        self._adapter_rank = adapter_rank
        self._config = config
        self._trained = frozenset(trained)
        present = {"camera": config.camera_head, "depth": config.depth_head, "points": config.point_head}
        self._heads = [name for name in heads if present[name]]
        self._total = 0
        self._reaches = False  # whether the tokens' gradient is needed where the count has come to

    def count(self, work: Work) -> int:
        """Return the operations of one sequence, forward and backward."""
        self._total, self._reaches = 0, False
        config, name = self._config, "aggregator"
        self._encode(work)
        self._reaches |= self._has(f"{name}.camera_token") or self._has(f"{name}.register_token")
        tokens = work.patches + config.num_special_tokens
        taps: dict[int, bool] = {}
        for layer in range(config.num_layers):
            for kind, num, length in (
                ("frame", work.frames, tokens),
                ("global", work.num_chunks, work.num_frames * tokens),
            ):
                self._block(f"{name}.{kind}_blocks.{layer}", num, length, config.hidden_size)
            if layer in config.memory_layers:
                self._memory(f"{name}.memory_units.{layer}", work)
            taps[layer] = self._reaches
        for head in self._heads:
            if head == "camera":
                self._reaches = taps[config.tap_layers[-1]]
                self._camera(work)
            else:
                self._dense("depth_head" if head == "depth" else "point_head", head, work, taps)
        return self._total

    def _has(self, prefix: str) -> bool:
        return any(name == prefix or name.startswith(f"{prefix}.") for name in self._trained)

    def _add(self, products: int, *needs_gradient: bool) -> None:
        """Count products in forward, and again for every factor whose gradient is needed."""
        self._total += 2 * products * (1 + sum(needs_gradient))

    def _linear(self, name: str, num: int, into: int, out: int) -> None:
        self._add(num * into * out, self._reaches, self._has(f"{name}.weight"))
        if self._has(f"{name}.lora_A"):
            self._add(num * into * self._adapter_rank, self._reaches, True)
            self._add(num * self._adapter_rank * out, True, True)
        self._reaches |= self._has(name)

    def _block(self, name: str, num: int, length: int, dim: int, mlp_ratio: float | None = None) -> None:
        """Count `num` sequences of tokens through a transformer block."""
        inner = int(dim * (self._config.mlp_ratio if mlp_ratio is None else mlp_ratio))
        self._reaches |= self._has(f"{name}.norm1")
        self._linear(f"{name}.attn.qkv", num * length, dim, 3 * dim)
        of_scores = self._reaches or self._has(f"{name}.attn.q_norm") or self._has(f"{name}.attn.k_norm")
        self._add(num * length**2 * dim, of_scores, of_scores)
        self._add(num * length**2 * dim, of_scores, self._reaches)
        self._reaches = of_scores
        self._linear(f"{name}.attn.proj", num * length, dim, dim)
        self._reaches |= self._has(f"{name}.ls1") or self._has(f"{name}.norm2")
        self._linear(f"{name}.mlp.fc1", num * length, dim, inner)
        self._linear(f"{name}.mlp.fc2", num * length, inner, dim)
        self._reaches |= self._has(f"{name}.ls2")

    def _conv(self, name: str, pixels: int, into: int, out: int, kernel: int) -> None:
        """Count a convolution by the pixels that its kernel is laid on."""
        self._add(pixels * into * out * kernel**2, self._reaches, self._has(f"{name}.weight"))
        self._reaches |= self._has(name)

    def _encode(self, work: Work) -> None:
        config, name = self._config, "aggregator.patch_embed"
        dim, size = config.hidden_size, config.patch_size
        if config.patch_encoder == "correlation":
            self._encode_correlation(name, work)
        elif config.patch_encoder == "conv":
            self._conv(f"{name}.proj", work.frames * work.patches, 3, dim, size)
        elif config.patch_encoder != "dinov2":
            self._reaches |= self._has(name)  # of another package: its own products are not counted
        else:
            self._conv(f"{name}.patch_embed.proj", work.frames * work.patches, 3, dim, size)
            self._reaches |= any(
                self._has(f"{name}.{token}") for token in ("cls_token", "pos_embed", "register_tokens")
            )
            length = 1 + config.num_register_tokens + work.patches
            for layer in range(config.encoder_layers):
                self._block(f"{name}.blocks.{layer}", work.frames, length, dim)
            self._reaches |= self._has(f"{name}.norm")

    def _encode_correlation(self, name: str, work: Work) -> None:
        config = self._config
        channels, dim, stride = config.correlation_channels, config.hidden_size, config.correlation_stride
        reach = 2 * config.correlation_radius + 1
        rows, columns = (side * config.patch_size for side in (work.rows, work.columns))
        half = stride // 2
        stem = work.frames * -(-rows // half) * -(-columns // half)
        height, width = (((side + half - 1) // half + 1) // 2 for side in (rows, columns))
        pixels, patches = work.frames * height * width, work.frames * work.patches
        self._conv(f"{name}.stem", stem, 3, channels, 5)
        self._conv(f"{name}.features", pixels, channels, channels, 3)
        # A row of pixels against every pixel of the rows around it, padding included.
        correlated = pixels * channels * reach * (width + reach - 1)
        self._add(correlated, self._reaches, self._reaches)
        of_planes = self._reaches
        self._conv(f"{name}.mix", pixels, channels + reach**2 + 1, 2 * channels, 1)
        self._conv(f"{name}.pool", patches, 2 * channels, dim, config.patch_size // stride)
        self._conv(f"{name}.refine", patches, dim, dim, 3)
        of_tokens, self._reaches = self._reaches, of_planes or self._has(f"{name}.sharpness")
        self._add(pixels * 2 * reach**2, self._reaches)
        self._reaches |= of_tokens
        self._linear(f"{name}.motion", patches, dim + 2, dim)

    def _memory(self, name: str, work: Work) -> None:
        """Count writing, the update and reading; what a memory is told by others is not part of it."""
        config = self._config
        dim, head_dim = config.hidden_size, config.hidden_size // config.memory_heads
        inner = config.memory_expansion * head_dim
        tokens = work.frames * work.patches
        product = tokens * dim * inner  # of all heads' tokens with one of the matrices
        before, of_qkv = self._reaches, self._has(f"{name}.qkv")
        weights = [self._has(f"{name}.w{number}") for number in range(3)]
        qkv = self._has(f"{name}.qkv.weight")
        self._add(tokens * dim * 2 * dim, before, qkv)
        self._add(tokens * dim * 3 * config.memory_heads, before, self._has(f"{name}.lrs.weight"))
        values = before or of_qkv
        keys = values or self._has(f"{name}.k_norm")
        rates = before or self._has(f"{name}.lrs")
        z, u, r = keys or weights[0], keys or weights[2], values or weights[1]
        self._add(product, keys, weights[0])
        self._add(product, keys, weights[2])
        self._add(product, values, weights[1])
        gradients = [keys or r or u or z or rates, z or u or rates or values, keys or r or z or rates]
        self._add(product, keys, r or u or z or rates)
        self._add(product, z or u or rates, values)
        self._add(product, keys, r or z or rates)
        small, large = min(head_dim, inner), max(head_dim, inner)
        num_updates = 1 if config.memory_scope == "sequence" else work.num_chunks
        steps = num_updates * config.newton_schulz_steps * config.memory_heads
        for has in gradients:
            for products in (small**2 * large, small**3, small**2 * large):
                self._add(steps * products, has, has)
        updated = [one or two for one, two in zip(gradients, weights, strict=True)]
        self._add(tokens * dim * dim, before, qkv)
        queries = before or of_qkv or self._has(f"{name}.q_norm")
        self._add(product, queries, updated[0])
        self._add(product, queries, updated[2])
        self._add(product, queries or updated[0] or updated[2], updated[1])
        self._reaches = queries or any(updated) or self._has(f"{name}.o_norm")
        self._linear(f"{name}.proj", tokens, dim, 3 * dim)

    def _camera(self, work: Work) -> None:
        config, name = self._config, "camera_head"
        dim, frames = 2 * config.hidden_size, work.frames
        self._reaches |= self._has(f"{name}.token_norm")
        of_tokens, of_pose = self._reaches, self._has(f"{name}.empty_pose_tokens")
        for _ in range(config.camera_iterations):
            self._reaches = of_pose
            self._linear(f"{name}.embed_pose", frames, POSE_SIZE, dim)
            self._linear(f"{name}.poseLN_modulation.1", frames, dim, 3 * dim)
            self._reaches |= of_tokens
            for layer in range(config.camera_layers):
                self._block(f"{name}.trunk.{layer}", work.num_chunks, work.num_frames, dim)
            self._reaches |= self._has(f"{name}.trunk_norm")
            self._linear(f"{name}.pose_branch.fc1", frames, dim, dim // 2)
            self._linear(f"{name}.pose_branch.fc2", frames, dim // 2, POSE_SIZE)
            of_pose = self._reaches

    def _dense(self, name: str, head: str, work: Work, taps: dict[int, bool]) -> None:
        config, features = self._config, self._config.dpt_features
        scratch = f"{name}.scratch"
        rows, columns = work.rows, work.columns
        sides = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns)]
        sides.append((-(-rows // 2), -(-columns // 2)))
        pixels = [work.frames * height * width for height, width in sides]
        patches = work.frames * work.patches
        laterals = []
        for level, (layer, channels) in enumerate(zip(config.tap_layers, config.dpt_channels, strict=True)):
            self._reaches = taps[layer] or self._has(f"{name}.norm")
            self._conv(f"{name}.projects.{level}", patches, 2 * config.hidden_size, channels, 1)
            if level < 2:  # transposed: the kernel is laid on the smaller map
                self._conv(f"{name}.resize_layers.{level}", patches, channels, channels, (4, 2)[level])
            elif level == 3:
                self._conv(f"{name}.resize_layers.3", pixels[3], channels, channels, 3)
            self._conv(f"{scratch}.layer{level + 1}_rn", pixels[level], channels, features, 3)
            laterals.append(self._reaches)
        self._reaches = laterals[3]
        finer = [4 * pixels[0], *pixels[:3]]
        for level in (3, 2, 1, 0):
            fusion = f"{scratch}.refinenet{level + 1}"
            if level < 3:
                coarser, self._reaches = self._reaches, laterals[level]
                for number in (1, 2):
                    self._conv(f"{fusion}.resConfUnit1.conv{number}", pixels[level], features, features, 3)
                self._reaches |= coarser
            for number in (1, 2):
                self._conv(f"{fusion}.resConfUnit2.conv{number}", pixels[level], features, features, 3)
            self._conv(f"{fusion}.out_conv", finer[level], features, features, 1)
        full = patches * config.patch_size**2
        refined, out = config.dpt_refine_channels, 2 if head == "depth" else 4
        self._conv(f"{scratch}.output_conv1", finer[0], features, features // 2, 3)
        self._conv(f"{scratch}.output_conv2.0", full, features // 2, refined, 3)
        self._conv(f"{scratch}.output_conv2.2", full, refined, out, 1)
