"""Scal3R as a Hugging Face model: images of the chunks of B sequences in, cameras and dense geometry out.

Shapes: B sequences, K chunks held by this process, S frames, P tokens, C channels, H W pixels, T camera iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from scal3r_train.config import permit_as_new
from scal3r_train.model.activation_checkpointing import CheckpointingMode, Recomputed, recompute
from scal3r_train.model.aggregator import EMBEDDING, Aggregator, ChunkFeatures, Tap
from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.block import Attention, LayerScale, recorded_attention
from scal3r_train.model.camera_head import CameraHead
from scal3r_train.model.chunk_batch import (
    ImageBatch,
    batch_images,
    in_temporal_order,
    reference_first,
    unbatch,
    unbatch_rows,
)
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.dpt_head import DPTHead
from scal3r_train.model.hub_files import describe_saved
from scal3r_train.model.hub_upload import check_repo_id, push_folder
from scal3r_train.model.motion_encoder import (
    INITIAL_LOG_FOCAL,
    INITIAL_LOG_PARALLAX,
    DirectPatchEncoder,
)
from scal3r_train.model.patch_encoder import INITIAL_SHARPNESS, CorrelationPatchEncoder, DinoPatchEncoder
from scal3r_train.model.pixel_values import NestedChunks, checked_pixel_values

SPECIAL_TOKEN_STD = 1e-6
HUB_OPTIONS = ("repo_id", "private", "token", "commit_message", "revision", "create_pr")
ENCODER_INIT_STD = 0.02
MOTION_OUTPUT_STD = 1e-3
CAMERA_OUTPUT_STD = 0.02
QUATERNION_W = 6  # place of the quaternion's real part in a pose encoding; the fields of view follow

PerChunk = Tensor | list[list[Tensor]]


@dataclass
class Scal3ROutput(ModelOutput):
    """Predictions per chunk, frames in temporal order, in the coordinate frame of the chunk's reference camera.

    Tensors for tensor input; for nested lists, lists over sequences of lists over chunks without the B and K axes.
    A head that is switched off leaves None.

    Attributes:
        pose_encoding: [B, K, S, 9] translation and quaternion (xyzw) of cam_from_chunk, fov_h, fov_w
            (docs/numerics.md#pose-encoding).
        pose_encoding_stages: [T, B, K, S, 9] all refinement stages; the last equals `pose_encoding`. For nested
            lists each chunk's is [T, S, 9].
        depth, depth_conf: [B, K, S, H, W] z-depth and its confidence (>= 1).
        world_points, world_points_conf: [B, K, S, H, W, 3] points in chunk coordinates and [B, K, S, H, W].
        motion_poses, motion_steps, inverse_depth, motion_fov, focal_evidence: of an encoder that measures motion, see
            `MotionEstimate`; None for nested lists.
        hidden_states: where asked for, num_layers + 1 times [B, K, S, P, C]: the tokens before the first layer and
            after each, its memory read; camera token and registers first, then patches row by row. Frames are as the
            network has them, the reference first (chunk_batch.py: reference_first_order), for these are the tensors
            of the graph themselves.
        attentions: where asked for, num_layers times the weights of the frame blocks, [B * K * S, h, P, P].
        global_attentions: likewise those of the global blocks, [B * K, h, S * P, S * P]. For nested lists each chunk's
            are [S, h, P, P] and [h, S * P, S * P]. Order of frames and tokens as for `hidden_states`.
    """

    pose_encoding: PerChunk | None = None
    pose_encoding_stages: PerChunk | None = None
    depth: PerChunk | None = None
    depth_conf: PerChunk | None = None
    world_points: PerChunk | None = None
    world_points_conf: PerChunk | None = None
    motion_poses: PerChunk | None = None
    motion_steps: PerChunk | None = None
    inverse_depth: PerChunk | None = None
    motion_fov: PerChunk | None = None
    focal_evidence: PerChunk | None = None
    hidden_states: tuple[PerChunk, ...] | None = None
    attentions: tuple[PerChunk, ...] | None = None
    global_attentions: tuple[PerChunk, ...] | None = None


# What a call gives engines and evaluations, whatever the model's configuration says.
ONLY_PREDICTIONS = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}


class Scal3RPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading."""

    config_class = Scal3RConfig
    base_model_prefix = "scal3r"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["AggregatorBlock", "EncoderBlock", "CameraBlock", "AdaptiveMemoryUnit"]
    # docs/numerics.md#precision: from_pretrained(dtype=torch.bfloat16) would leave 8 bits of a pose.
    _keep_in_fp32_modules_strict = ["memory_units", "camera_head", "depth_head", "point_head"]

    @classmethod
    def register_for_auto_class(cls, auto_class: object = "AutoModel") -> None:
        """Do nothing, as `Scal3RConfig.register_for_auto_class`."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise one module; transformers calls this for every module whose weights were not loaded."""
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            _init_linear(module)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
            if isinstance(module, nn.LayerNorm):
                init.zeros_(module.bias)
        elif isinstance(module, LayerScale):
            init.constant_(module.gamma, module.initial)
        elif isinstance(module, AdaptiveMemoryUnit):
            _init_memory(module)
        elif isinstance(module, DinoPatchEncoder):
            _init_encoder(module)
        elif isinstance(module, CorrelationPatchEncoder):
            init.constant_(module.sharpness, INITIAL_SHARPNESS)
        elif isinstance(module, DirectPatchEncoder):
            _init_motion_encoder(module)
        elif isinstance(module, CameraHead):
            _init_camera_head(module)
        elif isinstance(module, Aggregator):
            init.normal_(module.camera_token, std=SPECIAL_TOKEN_STD)
            init.normal_(module.register_token, std=SPECIAL_TOKEN_STD)


class Scal3RModel(Scal3RPreTrainedModel):
    """VGGT-style backbone with Global Context Memory, and its heads.

    `chunks_per_pass` bounds how many chunks of a sequence pass the network together, which bounds what is alive at
    once; results differ by rounding only. None: all that are equal. `adapter_rank` is that of its adapters (lora.py).
    """

    chunks_per_pass: int | None = None
    adapter_rank = 0

    def __init__(self, config: Scal3RConfig) -> None:
        """Build the network of `config`; memories keep to this process until `parallel` connects them."""
        super().__init__(config)
        self.config: Scal3RConfig = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config) if config.camera_head else None
        self.depth_head = DPTHead(config, 2, "exp") if config.depth_head else None
        self.point_head = DPTHead(config, 4, "inverse_log") if config.point_head else None
        for module in self.modules():
            if isinstance(module, Attention):
                module.config = config
        self._widen_strict_modules()
        self.post_init()

    def _widen_strict_modules(self) -> None:
        """Hold in float32 at least what `from_pretrained` would, also in a model built in half precision."""
        for name, module in self.named_modules():
            if name.split(".")[-1] in self._keep_in_fp32_modules_strict:
                for parameter in module.parameters():
                    parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))

    def save_pretrained(
        self, save_directory: str | PathLike[str], *arguments: Any, push_to_hub: bool = False, **options: Any
    ) -> None:
        """Write weights and configuration as transformers does, with the permissions of new files.

        `push_to_hub=True` (with repo_id, by default the folder's name, and what `push_to_hub` takes) publishes them.
        """
        taken = {name: options.pop(name) for name in HUB_OPTIONS if push_to_hub and name in options}
        super().save_pretrained(save_directory, *arguments, **options)
        permit_as_new(*Path(save_directory).glob("*.safetensors"))
        if push_to_hub:
            self.push_to_hub(taken.pop("repo_id", Path(save_directory).name), **taken)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a Scal3R model",
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: str = "5GB",
    ) -> str:
        """Publish this model as OWNER/NAME on the Hugging Face hub, in one commit; return the commit's address.

        Weights, configuration and a model card. A model that was loaded from a folder and has its weights still takes
        that folder's card and recipe along; its image processor in any case.

        Raises:
            UserError: the name, the token or the network cannot be used, or the hub refuses.
        """
        check_repo_id(repo_id)
        with TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            describe_saved(folder, self.config.name_or_path or "", repo_id)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )

    def set_activation_checkpointing(self, mode: CheckpointingMode) -> None:
        """Choose what is computed again in backward; gradients are the same to the bit.

        "none" keeps everything, "blocks" (what `gradient_checkpointing_enable` chooses) keeps the input of every block
        and memory part, "segments" keeps the tokens between two memories and what the heads tap. The dense heads
        recompute their passes in both.
        """
        again = partial(recompute, draws=self.aggregator.draws_random_numbers)
        self._set_gradient_checkpointing(enable=mode != "none", gradient_checkpointing_func=again)
        if mode == "segments":
            self.aggregator.recomputes_segments = True
            for module in self.aggregator.modules():
                if isinstance(module, Recomputed):
                    module.gradient_checkpointing = False

    def set_frames_per_pass(self, num_frames: int | None) -> None:
        """Bound how many frames pass the frame-wise parts of the network together; results differ by rounding only.

        None: all, but for the dense heads, which then keep to `dpt_frames_per_pass` of the configuration.
        """
        self.aggregator.frames_per_pass = num_frames
        for unit in self.aggregator.memory_units.values():
            assert isinstance(unit, AdaptiveMemoryUnit)
            unit.frames_per_pass = num_frames
        for head in (self.depth_head, self.point_head):
            if head is not None:
                most = self.config.dpt_frames_per_pass
                head.frames_per_pass = most if num_frames is None else min(most, num_frames)

    def _set_gradient_checkpointing(  # type: ignore[override]  # the rest of its arguments goes on as it is
        self,
        enable: bool = True,  # noqa: FBT001, FBT002  transformers' signature
        gradient_checkpointing_func: Callable[..., Any] = recompute,
        **kwargs: Any,
    ) -> None:
        # The reentrant kind hands on gradients of tensors only, and what is recomputed here takes and gives tuples.
        chosen = (
            gradient_checkpointing_func.keywords if isinstance(gradient_checkpointing_func, partial) else {}
        )
        if chosen.get("use_reentrant", False):
            raise ValueError(
                "Scal3R cannot use reentrant checkpointing: leave use_reentrant out or give "
                '{"use_reentrant": False}'
            )
        self.aggregator.recomputes_segments = False
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Return the patch encoder, which makes tokens of images."""
        return self.aggregator.patch_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Take another patch encoder: normalised images [..., S, 3, H, W] to tokens [..., S, N, C], N row-major.

        Its attribute `frames_are_independent` says whether the frames of a chunk may pass it in parts.
        """
        self.aggregator.patch_embed = value

    def get_output_embeddings(self) -> None:
        """Return None: there is no vocabulary."""

    def forward(
        self,
        pixel_values: Tensor | NestedChunks,
        chunk_mask: Tensor | None = None,
        heads: Sequence[str] | None = None,
        fov: Tensor | float | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Scal3ROutput | tuple[Any, ...]:
        """Predict cameras and geometry of every chunk held by this process.

        Args:
            pixel_values: [B, K, S, 3, H, W] RGB in [0, 1], frames in temporal order; one sequence may leave out B, one
                chunk B and K, and both are of length 1 in what comes back. For unequal chunks, one list per sequence
                of [S, 3, H, W] chunks (empty when other processes hold all of them).
            chunk_mask: [B, K] bool, False for padding chunks, which write nothing to the memory.
            heads: which of "camera", "depth", "points" to run; by default all that the model has.
            fov: horizontal field of view of all chunks in radians, where it is known; or [B, K] of each, with tensor
                input only. An encoder that measures motion uses it instead of its own estimate; others do not ask.
            output_hidden_states: whether to return the tokens of all layers; None: as the configuration says.
            output_attentions: whether to return the weights of all frame and global blocks, which then attend in plain
                operations (`eager`), whatever the kernel is; None: as the configuration says.
            return_dict: False returns a tuple of what is not None; None: as the configuration says.

        Raises:
            ValueError: wrong shapes, sides that are no multiple of the patch size, a head the model lacks, images that
                are integers or, on the CPU, far outside of [0, 1]; one field of view outside of 0 to pi; attentions
                together with activation checkpointing, unless the kernel is `eager`.
        """
        wanted = self._wanted_heads(heads)
        images = checked_pixel_values(pixel_values)
        batches = batch_images(images, chunk_mask, self.chunks_per_pass, fov)
        num_sequences = len(images)
        dense = "depth" in wanted or "points" in wanted
        tap_layers = self.config.tap_layers if dense else self.config.tap_layers[-1:]
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        every_layer = range(EMBEDDING, self.config.num_layers)
        layers = every_layer if output_hidden_states else tap_layers
        fields: dict[str, Any] = {}
        features: list[ChunkFeatures]
        attentions: dict[str, Any] = {}
        if output_attentions:
            features, attentions = self._attended(batches, num_sequences, layers)
        elif wanted or output_hidden_states or not self.config.has_motion:
            features = self.aggregator(batches, num_sequences, layers)
        else:  # nobody reads a layer; the encoder may still learn from what it measures
            features = [ChunkFeatures({}, self.aggregator.embed(batch).motion) for batch in batches]
        taps = [of_batch.taps for of_batch in features]
        if "camera" in wanted:
            stages = [
                self.cameras(of_batch.taps[tap_layers[-1]], of_batch.motion and of_batch.motion.poses)
                for of_batch in features
            ]
            fields["pose_encoding"] = unbatch([stage[:, :, -1] for stage in stages], batches, num_sequences)
            every_stage = unbatch(stages, batches, num_sequences)
            fields["pose_encoding_stages"] = (
                rearrange(every_stage, "b k t s pose -> t b k s pose")
                if isinstance(every_stage, Tensor)
                else every_stage
            )
        dense_heads = (("depth", self.depth_head, "depth"), ("points", self.point_head, "world_points"))
        for name, dense_head, value in dense_heads:
            if name not in wanted:
                continue
            assert dense_head is not None
            dense_maps = [
                self._dense(dense_head, batch, tap) for batch, tap in zip(batches, taps, strict=True)
            ]
            fields[value] = unbatch([values for values, _ in dense_maps], batches, num_sequences)
            fields[f"{value}_conf"] = unbatch([conf for _, conf in dense_maps], batches, num_sequences)
        motions = [of_batch.motion for of_batch in features if of_batch.motion is not None]
        if motions and isinstance(images, Tensor):
            fields["motion_poses"] = torch.cat([motion.poses for motion in motions], dim=1)
            fields["motion_steps"] = torch.cat([motion.steps for motion in motions], dim=1)
            fields["inverse_depth"] = torch.cat([motion.inverse_depth for motion in motions], dim=1)
            fields["motion_fov"] = torch.cat([motion.fov for motion in motions], dim=1)
            fields["focal_evidence"] = torch.cat([motion.focal_evidence for motion in motions], dim=1)
        if output_hidden_states:
            fields["hidden_states"] = tuple(
                unbatch([batch_taps[layer].layer_half for batch_taps in taps], batches, num_sequences)
                for layer in every_layer
            )
        output = Scal3ROutput(**fields, **attentions)
        is_tuple = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if is_tuple else output

    def _attended(
        self, batches: list[ImageBatch], num_sequences: int, layers: Sequence[int]
    ) -> tuple[list[ChunkFeatures], dict[str, Any]]:
        """Return what the aggregator hands on, and the weights of all layers' attention as fields of the output."""
        recomputes = self.aggregator.recomputes_segments or any(
            isinstance(module, Recomputed) and module.gradient_checkpointing for module in self.modules()
        )
        if self.training and recomputes and self.config._attn_implementation != "eager":
            raise ValueError(
                "output_attentions under activation checkpointing needs the same kernel in backward: "
                'model.set_attn_implementation("eager")'
            )
        blocks = self.aggregator.frame_blocks, self.aggregator.global_blocks
        with recorded_attention(blocks[0]) as of_frames, recorded_attention(blocks[1]) as of_chunks:
            features = self.aggregator(batches, num_sequences, layers)
        fields = {
            name: tuple(
                unbatch_rows(parts, batches, num_sequences, of_frames=name == "attentions")
                for parts in of_layers
            )
            for name, of_layers in (("attentions", of_frames), ("global_attentions", of_chunks))
        }
        return features, fields

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The heads that the model has, by the names that `forward` takes."""
        modules = {"camera": self.camera_head, "depth": self.depth_head, "points": self.point_head}
        return {name: module for name, module in modules.items() if module is not None}

    def heads_among(self, names: Collection[str]) -> list[str]:
        """Return the names of those that the model has."""
        return [name for name in self.heads if name in names]

    def _wanted_heads(self, heads: Sequence[str] | None) -> list[str]:
        available = list(self.heads)
        unknown = sorted(set(heads or ()) - set(available))
        if unknown:
            raise ValueError(f"the model has no {unknown[0]!r} head; it has {', '.join(available) or 'none'}")
        return available if heads is None else list(heads)

    def cameras(self, tap: Tap, start: Tensor | None = None) -> Tensor:
        """Return the pose encodings of a batch in temporal order, [B, K, T, S, 9].

        Args:
            tap: the last one, all tokens or the camera tokens alone.
            start: [B, K, S, 9] in temporal order, the poses of an encoder that measures motion.
        """
        assert self.camera_head is not None
        tokens = torch.cat([half[:, :, :, 0] for half in tap], dim=-1)
        with torch.autocast(
            tokens.device.type, enabled=False
        ):  # heads keep to their weights' dtype (docs/numerics.md#precision)
            if start is not None:
                start = rearrange(reference_first(start, dim=2), "b k s pose -> (b k) s pose")
            stages = self.camera_head(rearrange(tokens, "b k s c -> (b k) s c"), start)
        stages = in_temporal_order(stages, dim=2)
        return rearrange(stages, "t (b k) s pose -> b k t s pose", b=len(tokens))

    def _dense(self, head: DPTHead, batch: ImageBatch, taps: dict[int, Tap]) -> tuple[Tensor, Tensor]:
        """Return a dense head's values and confidence in temporal order; one-channel values lose the last axis."""
        (num_sequences, num_chunks), size = batch.images.shape[:2], self.config.patch_size
        grid = batch.images.shape[-2] // size, batch.images.shape[-1] // size
        with torch.autocast(batch.images.device.type, enabled=False):
            of_frames = [
                [rearrange(half, "b k s p c -> (b k s) p c") for half in taps[j]]
                for j in self.config.tap_layers
            ]
            values, conf = head(of_frames, grid)
        values, conf = (
            in_temporal_order(
                rearrange(each, "(b k s) ... -> b k s ...", b=num_sequences, k=num_chunks), dim=2
            )
            for each in (values, conf)
        )
        return (values.squeeze(-1) if values.shape[-1] == 1 else values), conf


def _init_linear(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Uniform in +-1/sqrt(fan_in), PyTorch's own default for these layers."""
    bound = module.weight[0].numel() ** -0.5
    init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        init.uniform_(module.bias, -bound, bound)


def _init_memory(memory: AdaptiveMemoryUnit) -> None:
    """Set the fast weights and make the output projection a constant gate (docs/numerics.md#memory-parameters)."""
    _, head_dim, inner_dim = memory.w0.shape
    init.normal_(memory.w0, std=(2 / head_dim) ** 0.5)
    init.normal_(memory.w2, std=(2 / head_dim) ** 0.5)
    init.normal_(memory.w1, std=(2 / inner_dim) ** 0.5)
    init.zeros_(memory.proj.weight)
    bias = torch.zeros_like(memory.proj.bias)
    bias[2 * len(bias) // 3 :] = memory.gate_init
    init.copy_(memory.proj.bias, bias)


def _init_camera_head(head: CameraHead) -> None:
    """Start near no rotation and a field of view of 1 rad, spread over the iterations, which add up.

    An unlucky start has negative fields of view, where the ReLU gives no gradient, and never learns them. A head that
    refines measured motion starts by leaving it as it is.
    """
    init.zeros_(head.empty_pose_tokens)
    if head.has_start:
        init.zeros_(head.pose_branch.fc2.weight)
        init.zeros_(head.pose_branch.fc2.bias)
        return
    init.normal_(head.pose_branch.fc2.weight, std=CAMERA_OUTPUT_STD)
    bias = torch.zeros_like(head.pose_branch.fc2.bias)
    bias[QUATERNION_W:] = 1 / head.num_iterations
    init.copy_(head.pose_branch.fc2.bias, bias)


def _init_motion_encoder(encoder: DirectPatchEncoder) -> None:
    """Start with a usual field of view, one depth all over, and all cells trusted alike."""
    *_, focal = encoder.focal
    assert isinstance(focal, nn.Linear)
    last = (
        (encoder.log_parallax, INITIAL_LOG_PARALLAX),
        (encoder.trust, 0.0),
        (focal, INITIAL_LOG_FOCAL),
    )
    for layer, bias in last:
        assert layer.bias is not None
        init.normal_(layer.weight, std=MOTION_OUTPUT_STD)
        init.constant_(layer.bias, bias)


def _init_encoder(encoder: DinoPatchEncoder) -> None:
    """Set the encoder's tokens as DINOv2 does."""
    init.trunc_normal_(encoder.pos_embed, std=ENCODER_INIT_STD)
    init.normal_(encoder.cls_token, std=SPECIAL_TOKEN_STD)
    init.zeros_(encoder.mask_token)
    if encoder.num_register_tokens > 0:
        init.normal_(encoder.register_tokens, std=SPECIAL_TOKEN_STD)


AutoModel.register(Scal3RConfig, Scal3RModel)
