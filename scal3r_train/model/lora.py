"""Low-rank adapters on the linear layers of the frozen backbone (LoRA), through peft: y = W x + (alpha / rank) B A x.

Only A [rank, in] and B [out, rank] are trained, beside the memories. B is zero at first, so that the adapted model
starts as its base. peft puts its layers in the place of ours: their weights are called `NAME.base_layer.weight`,
`NAME.lora_A.default.weight` and `NAME.lora_B.default.weight` from then on; the model stays the class it was.

Hu et al., LoRA, ICLR 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from scal3r_train.config import StrictModel, UserError

if TYPE_CHECKING:  # recipes hold these settings, and importing transformers' models takes seconds
    from scal3r_train.model.modeling_scal3r import Scal3RModel

AdaptedLayers = Literal["attention", "mlp"]
LAYERS: dict[AdaptedLayers, str] = {"attention": r"attn\.(qkv|proj)", "mlp": r"mlp\.fc[12]"}
BLOCKS, ENCODER_BLOCKS = "frame_blocks|global_blocks", r"patch_embed\.blocks"
BASE_PART, A_PART, B_PART = ".base_layer.", ".lora_A.default.", ".lora_B.default."


class LoraSettings(StrictModel):
    """The section `model.lora` of a training recipe: how the frozen backbone is adapted."""

    rank: int = Field(
        default=16, ge=1, description="rows of A and columns of B of every adapted layer [channels]"
    )
    alpha: int = Field(
        default=32, ge=1, description="an adapter's output is multiplied by alpha / rank [factor]"
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the values that an adapter reads which are zeroed at random in training [share]",
    )
    targets: tuple[AdaptedLayers, ...] = Field(
        default=("attention", "mlp"),
        min_length=1,
        description="linear layers of a block that get an adapter: attention (qkv, proj), mlp (fc1, fc2)",
    )
    encoder: bool = Field(
        default=True, description="whether the blocks of a DINOv2 patch encoder get adapters too"
    )

    @property
    def pattern(self) -> str:
        """Return the regular expression that the names of adapted layers match as a whole."""
        blocks = f"{BLOCKS}|{ENCODER_BLOCKS}" if self.encoder else BLOCKS
        layers = "|".join(LAYERS[kind] for kind in LAYERS if kind in self.targets)
        return rf"aggregator\.({blocks})\.\d+\.({layers})"


def peft_config(settings: LoraSettings) -> Any:
    """Return peft's description of the adapters, a `peft.LoraConfig`.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig  # noqa: PLC0415  an extra
    except ImportError as error:
        raise UserError(f"model.lora needs peft: pip install 'scal3r_train[lora]' ({error})") from None
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.pattern,
    )


def add_adapters(model: Scal3RModel, settings: LoraSettings) -> None:
    """Put adapters around the model's layers, in place; only they require gradients afterwards.

    Raises:
        UserError: peft is not installed.
    """
    config = peft_config(settings)
    from peft import inject_adapter_in_model  # noqa: PLC0415
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415

    inject_adapter_in_model(config, model)
    model.adapter_rank = settings.rank
    model.aggregator.draws_random_numbers = settings.dropout > 0
    for module in model.modules():
        if isinstance(module, LoraLayer):
            # Autocast rounds what a product reads; a copy of the tokens in float32 before it would only take memory.
            module.cast_input_dtype_enabled = False


def is_adapter(name: str) -> bool:
    """Return whether a parameter of this name belongs to an adapter."""
    return A_PART in name or B_PART in name


def base_name(name: str) -> str:
    """Return what a parameter that is no adapter is called in the base model."""
    return name.replace(BASE_PART, ".")
