"""Configuration of the Scal3R model: every size and switch of the network, with the released values as defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig

from scal3r_train.model.network_bounds import beyond_bounds
from scal3r_train.plugins import PATCH_ENCODERS, plugin_names

# The file that a saved folder gets for those who have not imported this package, and what transformers finds in it.
AUTO_FILE = Path(__file__).with_name("scal3r_auto.py")
AUTO_MAP = {
    name: f"{AUTO_FILE.stem}.{ours}"
    for name, ours in (("AutoConfig", "Scal3RConfig"), ("AutoModel", "Scal3RModel"))
}
# What a saved folder says of its images, for `Scal3RImageProcessor`; it counts in no checkpoint's hash.
PROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_NAME = "Scal3RImageProcessor"
PROCESSOR_AUTO_MAP = {"AutoImageProcessor": f"{AUTO_FILE.stem}.{PROCESSOR_NAME}"}

# How a checkpoint's memories are used: as `memory_scope` has it, or not at all.
MemoryUse = Literal["sequence", "chunk", "off"]
OWN_PATCH_ENCODERS = ("dinov2", "conv", "correlation", "direct")


def changes_of_memory(memory: MemoryUse | None) -> dict[str, Any]:
    """Return the keys of a configuration that use its memories so; none: as it says."""
    if memory is None:
        return {}
    return {"memory_layers": []} if memory == "off" else {"memory_scope": memory}


class Scal3RConfig(PreTrainedConfig):
    """Sizes and switches of `Scal3RModel`; the defaults are the released 1.27 B parameter configuration.

    Each line describes one key of `model.network` in a training recipe, with its unit in brackets, and is printed by
    `scal3r config RECIPE --describe`.

    Attributes:
        image_size: side of the square whose positional embeddings the encoder stores [pixels]
        patch_size: side of a patch, of which image sides must be multiples [pixels]
        hidden_size: channels of a token (docs/model.md#the-network) [channels]
        num_layers: layers of alternating attention, each a frame block and a global block [layers]
        num_heads: attention heads of these blocks [heads]
        mlp_ratio: width of a block's MLP relative to hidden_size [factor]
        num_register_tokens: learned tokens beside the camera token of every frame [tokens]
        rope_frequency: base of the 2D rotary embedding; 0 turns it off [-]
        layer_scale_init: initial LayerScale of the aggregator's blocks [factor]
        patch_encoder: which encoder: dinov2, conv (one strided convolution), correlation (convolutions plus a local
            cost volume against the temporally previous frame) or direct (a depth of its own, and the camera motion by
            direct alignment of neighbours), the last two for small models trained from scratch; or the name of one
            that an installed package adds (docs/extending/patch_encoder.md)
        patch_encoder_options: settings of an added encoder, which alone knows them
        encoder_layers: blocks of the DINOv2 encoder [layers]
        encoder_heads: attention heads of the DINOv2 encoder [heads]
        encoder_antialias: whether positional embeddings are resampled with a low-pass
            (docs/numerics.md#patch-encoder)
        encoder_position_offset: added to the sides of the grid when positional embeddings are resampled
            (docs/numerics.md#patch-encoder) [patches]
        correlation_channels: features of the correlation encoder [channels]
        correlation_radius: reach of the correlation encoder's cost volume [feature pixels]
        correlation_stride: resolution of the correlation encoder's features [pixels]
        direct_channels: features of the direct encoder at its finest resolution, more at coarser ones [channels]
        direct_stride: side of a cell of the direct encoder, odd [pixels]
        direct_levels: resolutions of the direct encoder, each half of the one before [-]
        tap_layers: layers whose outputs feed the dense heads; the last one also feeds the camera head [layer]
        memory_layers: layers followed by an Adaptive Memory Unit; empty turns global context off [layer]
        memory_scope: whose gradients a memory sums: sequence, of all chunks of a sequence, wherever they are (global
            context); chunk, of one chunk that alone writes and reads it (the paper's ablation without GCS)
        memory_heads: heads of the fast-weight SwiGLU (docs/model.md#the-memory) [heads]
        memory_expansion: inner width of the fast-weight SwiGLU relative to a head's [factor]
        memory_base_lr: token learning rate where its predictor outputs zero [rate]
        memory_gate_init: initial gate of the memory's output; the paper's 0.1, or 0.0 for a neutral start (output
            equal to the backbone's) [factor]
        newton_schulz_steps: iterations of the orthogonalisation of the summed gradient [iterations]
        newton_schulz_dtype: what the orthogonalisation computes in: working, the fast weights' own dtype; bfloat16, as
            the official release, which is not reproducible beyond 2-6 % (docs/numerics.md#conditioning)
        camera_head: whether cameras are predicted (docs/numerics.md#camera-head)
        depth_head: whether depth is predicted (docs/numerics.md#dpt-heads)
        point_head: whether a point map is predicted (docs/numerics.md#dpt-heads)
        camera_heads: attention heads of the camera head [heads]
        camera_layers: blocks of the camera head [layers]
        camera_iterations: refinements of the cameras, one after the other [iterations]
        dpt_features: channels of the dense heads [channels]
        dpt_channels: channels of the four taps inside a dense head [channels]
        dpt_refine_channels: channels of a dense head's last convolutions [channels]
        dpt_frames_per_pass: frames that pass a dense head together; changes memory, not results [frames]
    """

    model_type = "scal3r"

    def __init__(
        self,
        image_size: int = 518,
        patch_size: int = 14,
        hidden_size: int = 1024,
        num_layers: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_register_tokens: int = 4,
        rope_frequency: float = 100.0,
        layer_scale_init: float = 0.01,
        patch_encoder: str = "dinov2",
        patch_encoder_options: dict[str, Any] | None = None,
        encoder_layers: int = 24,
        encoder_heads: int = 16,
        encoder_antialias: bool = True,
        encoder_position_offset: float = 0.0,
        correlation_channels: int = 32,
        correlation_radius: int = 4,
        correlation_stride: int = 2,
        direct_channels: int = 32,
        direct_stride: int = 3,
        direct_levels: int = 3,
        tap_layers: tuple[int, ...] | list[int] = (4, 11, 17, 23),
        memory_layers: tuple[int, ...] | list[int] = (14, 17, 20, 23),
        memory_scope: Literal["sequence", "chunk"] = "sequence",
        memory_heads: int = 1,
        memory_expansion: int = 4,
        memory_base_lr: float = 0.01,
        memory_gate_init: float = 0.1,
        newton_schulz_steps: int = 5,
        newton_schulz_dtype: Literal["working", "bfloat16"] = "working",
        camera_head: bool = True,
        depth_head: bool = True,
        point_head: bool = True,
        camera_heads: int = 16,
        camera_layers: int = 4,
        camera_iterations: int = 4,
        dpt_features: int = 256,
        dpt_channels: tuple[int, int, int, int] | list[int] = (256, 512, 1024, 1024),
        dpt_refine_channels: int = 32,
        dpt_frames_per_pass: int = 8,
        **kwargs: Any,
    ) -> None:
        """Store the sizes and check that they fit together.

        Raises:
            ValueError: a size contradicts another; the message names both.
        """
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.num_register_tokens = num_register_tokens
        self.rope_frequency = rope_frequency
        self.layer_scale_init = layer_scale_init
        self.patch_encoder = patch_encoder
        self.patch_encoder_options = dict(patch_encoder_options or {})
        self.encoder_layers = encoder_layers
        self.encoder_heads = encoder_heads
        self.encoder_antialias = encoder_antialias
        self.encoder_position_offset = encoder_position_offset
        self.correlation_channels = correlation_channels
        self.correlation_radius = correlation_radius
        self.correlation_stride = correlation_stride
        self.direct_channels = direct_channels
        self.direct_stride = direct_stride
        self.direct_levels = direct_levels
        self.tap_layers = list(tap_layers)
        self.memory_layers = list(memory_layers)
        self.memory_scope = memory_scope
        self.memory_heads = memory_heads
        self.memory_expansion = memory_expansion
        self.memory_base_lr = memory_base_lr
        self.memory_gate_init = memory_gate_init
        self.newton_schulz_steps = newton_schulz_steps
        self.newton_schulz_dtype = newton_schulz_dtype
        self.camera_head = camera_head
        self.depth_head = depth_head
        self.point_head = point_head
        self.camera_heads = camera_heads
        self.camera_layers = camera_layers
        self.camera_iterations = camera_iterations
        self.dpt_features = dpt_features
        self.dpt_channels = list(dpt_channels)
        self.dpt_refine_channels = dpt_refine_channels
        self.dpt_frames_per_pass = dpt_frames_per_pass
        super().__init__(**kwargs)
        self._check()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write config.json, and beside it the file through which the Auto classes find this package.

        And preprocessor_config.json, unless there is one. `Scal3RModel.save_pretrained` and the exports of training
        call it too.
        """
        self.auto_map = dict(AUTO_MAP)
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / AUTO_FILE.name).write_bytes(AUTO_FILE.read_bytes())
        if not (Path(save_directory) / PROCESSOR_FILE).exists():
            sizes = {"image_size": self.image_size, "patch_size": self.patch_size}
            write_processor_config(Path(save_directory), sizes)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: transformers calls it after `trust_remote_code` and would then save copies of this file."""

    @property
    def num_special_tokens(self) -> int:
        """Tokens in front of a frame's patches: one camera token and the registers."""
        return 1 + self.num_register_tokens

    @property
    def encoder_settings(self) -> dict[str, Any]:
        """What the patch encoder's result depends on beside the shapes of its weights."""
        own = {"dinov2": "encoder_", "correlation": "correlation_", "direct": "direct_"}.get(
            self.patch_encoder
        )
        return {
            key: value
            for key, value in vars(self).items()
            if key in ("patch_encoder", "patch_encoder_options", "patch_size")
            or (own is not None and key.startswith(own))
        }

    @property
    def has_motion(self) -> bool:
        """Whether the patch encoder estimates the cameras' motion, from which the camera head then starts."""
        return self.patch_encoder == "direct"

    def _check(self) -> None:
        if (fault := beyond_bounds(vars(self))) is not None:
            raise ValueError(f"model configuration: {fault}")
        is_dense = self.depth_head or self.point_head
        rules = [
            (self.hidden_size % self.num_heads == 0, "hidden_size must be a multiple of num_heads"),
            (self.hidden_size % self.memory_heads == 0, "hidden_size must be a multiple of memory_heads"),
            (
                2 * self.hidden_size % self.camera_heads == 0,
                "2*hidden_size must be a multiple of camera_heads",
            ),
            (self.memory_scope in ("sequence", "chunk"), "memory_scope is not sequence or chunk"),
            (
                self.patch_encoder in OWN_PATCH_ENCODERS
                or self.patch_encoder in plugin_names(PATCH_ENCODERS),
                f"patch_encoder {self.patch_encoder} is not one of {', '.join(OWN_PATCH_ENCODERS)}, and no installed "
                f"package adds it ({PATCH_ENCODERS.page})",
            ),
            (
                not self.patch_encoder_options or self.patch_encoder not in OWN_PATCH_ENCODERS,
                f"patch_encoder_options are for added encoders; {self.patch_encoder} has none",
            ),
            (
                self.newton_schulz_dtype in ("working", "bfloat16"),
                "newton_schulz_dtype is not working or bfloat16",
            ),
            (
                all(0 <= layer < self.num_layers for layer in [*self.tap_layers, *self.memory_layers]),
                f"tap_layers and memory_layers must lie in 0..{self.num_layers - 1}",
            ),
            (sorted(set(self.memory_layers)) == self.memory_layers, "memory_layers must increase"),
            (
                len(self.tap_layers) == 4 or not is_dense,
                "the dense heads read exactly four tap_layers",
            ),
            (
                len(self.tap_layers) > 0 and self.tap_layers[-1] == self.num_layers - 1,
                "the last of tap_layers must be the last layer",
            ),
            (
                self.rope_frequency == 0 or self.hidden_size // self.num_heads % 4 == 0,
                "rotary embeddings need a head size (hidden_size / num_heads) that is a multiple of 4",
            ),
            (
                self.rope_frequency == 0 or self.hidden_size // self.memory_heads % 4 == 0,
                "rotary embeddings need hidden_size / memory_heads to be a multiple of 4",
            ),
            (self.image_size % self.patch_size == 0, "image_size must be a multiple of patch_size"),
            (
                self.patch_encoder != "correlation"
                or (self.correlation_stride % 2 == 0 and self.patch_size % self.correlation_stride == 0),
                "correlation_stride must be even and divide patch_size",
            ),
            (
                self.patch_encoder != "direct"
                or (
                    self.direct_levels >= 1
                    and self.direct_stride % 2 == 1
                    and self.patch_size % (self.direct_stride * 2 ** (self.direct_levels - 1)) == 0
                ),
                "direct_stride must be odd, and direct_stride * 2^(direct_levels - 1) divide patch_size",
            ),
            (
                self.patch_encoder != "dinov2" or self.hidden_size % self.encoder_heads == 0,
                "hidden_size must be a multiple of encoder_heads",
            ),
            (
                not is_dense
                or (len(self.dpt_channels) == 4 and not any(width % 4 for width in self.dpt_channels)),
                "dpt_channels must be four multiples of 4",
            ),
            (not is_dense or self.dpt_features % 8 == 0, "dpt_features must be a multiple of 8"),
        ]
        broken = [message for holds, message in rules if not holds]
        if broken:
            raise ValueError(f"model configuration: {broken[0]}")


def write_processor_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what a model wants of its images: arguments of `Scal3RImageProcessor`, which has defaults for others."""
    values = {"auto_map": PROCESSOR_AUTO_MAP, "image_processor_type": PROCESSOR_NAME, **settings}
    (folder / PROCESSOR_FILE).write_text(
        json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


AutoConfig.register(Scal3RConfig.model_type, Scal3RConfig)
