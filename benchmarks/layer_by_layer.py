"""The reference implementation of the segment schedule: layer by layer over all chunks, state on the host in between.

All taps are kept whole in float32 and all heads run at the end, as in the reference release
(docs/numerics.md#departures-from-the-release).
Kept to check and to measure against; nothing but benchmarks and tests uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.model.aggregator import Tap
from scal3r_train.model.chunk_batch import ChunkBatch, ImageBatch, in_temporal_order
from scal3r_train.model.fast_weight import summed
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.rope import TokenPositions


class LayerByLayer:
    """Predicts chunks layer by layer.

    Attributes:
        peak_state_bytes: most bytes of tokens and taps held on the host at once.
        moved_bytes: bytes copied to the host or back.
    """

    def __init__(self, model: Scal3RModel) -> None:
        """Use a model in evaluation mode."""
        self.model = model
        self.device = next(model.parameters()).device
        self.peak_state_bytes = 0
        self.moved_bytes = 0

    @torch.no_grad()
    def predict(
        self, chunks: Sequence[Tensor], heads: Sequence[str] = ("camera", "depth", "points")
    ) -> list[ChunkPrediction]:
        """Return the predictions of all chunks [S, 3, H, W] uint8, with the point head's among `heads`."""
        aggregator, config = self.model.aggregator, self.model.config
        batches: list[ChunkBatch] = []
        for images in chunks:
            floats = images.to(self.device).float() / 255
            batches.append(self._away(aggregator.embed(ImageBatch(floats[None, None], (0,), (), None))))
        taps: list[dict[int, Tap]] = [{} for _ in chunks]
        for layer in range(config.num_layers):
            halves = []
            for place, batch in enumerate(batches):
                positions = TokenPositions(batch.positions.positions.clone())
                table = positions.table(aggregator.head_dim, config.rope_frequency, torch.float32)
                frame_block, global_block = aggregator.frame_blocks[layer], aggregator.global_blocks[layer]
                frame_half = self._step(batch, lambda x, b=frame_block, t=table: b(x.flatten(0, 2), t))
                halves.append(frame_half.tokens)
                batches[place] = self._step(
                    frame_half,
                    lambda x, b=global_block, t=table: b(x.flatten(0, 1).flatten(1, 2), t),
                )
            if layer in config.memory_layers:
                batches = self._remember(layer, batches)
            if layer in config.tap_layers:
                for tap, half, batch in zip(taps, halves, batches, strict=True):
                    tap[layer] = Tap(half, batch.tokens.clone())
            held = [batch.tokens for batch in batches] + [
                half for tap in taps for pair in tap.values() for half in pair
            ]
            self.peak_state_bytes = max(
                self.peak_state_bytes, sum(x.numel() * x.element_size() for x in held)
            )
        return [self._heads(images, tap, heads) for images, tap in zip(chunks, taps, strict=True)]

    def _remember(self, layer: int, batches: list[ChunkBatch]) -> list[ChunkBatch]:
        unit = self.model.aggregator.memory_after(range(layer, layer + 1))
        assert unit is not None
        gradients = [unit.chunk_gradient(self._here(batch)) for batch in batches]
        weights = unit.updated_weights(summed(gradients))
        return [self._away(unit.apply_weights(self._here(batch), weights)) for batch in batches]

    def _heads(self, images: Tensor, taps: dict[int, Tap], heads: Sequence[str]) -> ChunkPrediction:
        config, image_hw = self.model.config, (images.shape[-2], images.shape[-1])
        grid = image_hw[0] // config.patch_size, image_hw[1] // config.patch_size
        on_device = {j: Tap(*(self._moved(half, self.device) for half in tap)) for j, tap in taps.items()}
        flat = [[half.flatten(0, 2) for half in on_device[j]] for j in config.tap_layers]
        encoding = self.model.cameras(on_device[config.tap_layers[-1]])[0, 0, -1].double().cpu()
        extrinsics, intrinsics = decode_pose(encoding, image_hw)
        found = {}
        for name, head in (("depth", self.model.depth_head), ("points", self.model.point_head)):
            if name in heads:
                assert head is not None
                values, confidence = head(flat, grid)
                found[name] = (
                    in_temporal_order(values, dim=0).squeeze(-1).cpu(),
                    in_temporal_order(confidence, dim=0).cpu(),
                )
        depth, depth_conf = found["depth"]
        points, points_conf = found.get("points", (None, None))
        return ChunkPrediction(extrinsics, intrinsics, depth, depth_conf, points, points_conf)

    def _step(self, batch: ChunkBatch, block: Callable[[Tensor], Tensor]) -> ChunkBatch:
        here = self._here(batch)
        return self._away(here.with_tokens(block(here.tokens).reshape(here.tokens.shape)))

    def _here(self, batch: ChunkBatch) -> ChunkBatch:
        return batch.with_tokens(self._moved(batch.tokens, self.device))

    def _away(self, batch: ChunkBatch) -> ChunkBatch:
        return batch.with_tokens(self._moved(batch.tokens, torch.device("cpu")))

    def _moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        self.moved_bytes += tensor.numel() * tensor.element_size()
        return tensor.to(device, copy=True)
