"""What the ranks and the single reference process have in common: model, data, loss and the list of scenarios.

Everything is a pure function of names and seeds, so no tensor has to travel from the test to the ranks.

Shapes: K chunks of a sequence, S frames of a chunk, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.model.activation_checkpointing import CheckpointingMode
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput

WORLD_SIZE = 4
IMAGE_HW = (8, 12)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
CHECKPOINTING: tuple[CheckpointingMode, ...] = ("none", "blocks", "segments")
HEADS = ("pose_encoding", "depth", "world_points")


@dataclass(frozen=True)
class Scenario:
    """Who holds which chunks.

    Attributes:
        name: how results are filed.
        groups: for each context group, in rank order, how many chunks of the group's sequence each of its ranks holds.
        num_frames: frames of each chunk of a sequence, by position in it.
        padded_to: tensor input with this many chunks per rank, the surplus being masked padding; None: no padding,
            tensor input when a rank's chunks are equally long, else nested lists.
        patch_encoder: which encoder the model has.
    """

    name: str
    groups: tuple[tuple[int, ...], ...]
    num_frames: tuple[int, ...]
    padded_to: int | None = None
    patch_encoder: str = "conv"

    def sequence_of(self, rank: int) -> tuple[int, int]:
        """Return the sequence of a rank and the rank's place in its context group."""
        start = 0
        for sequence, counts in enumerate(self.groups):
            if rank < start + len(counts):
                return sequence, rank - start
            start += len(counts)
        raise AssertionError(rank)

    def block_of(self, rank: int) -> range:
        """Return the ranks of a rank's context group."""
        sequence, place = self.sequence_of(rank)
        return range(rank - place, rank - place + len(self.groups[sequence]))

    def chunks_of(self, rank: int) -> range:
        """Return which chunks of its sequence a rank holds."""
        sequence, place = self.sequence_of(rank)
        counts = self.groups[sequence]
        return range(sum(counts[:place]), sum(counts[: place + 1]))


SCENARIOS = (
    Scenario("1x4", ((4,), (4,), (4,), (4,)), (3, 3, 3, 3)),
    Scenario("2x2", ((2, 2), (2, 2)), (3, 3, 3, 3)),
    Scenario("4x1", ((1, 1, 1, 1),), (3, 3, 3, 3)),
    Scenario("4x1_dinov2", ((1, 1, 1, 1),), (3, 3, 3, 3), patch_encoder="dinov2"),
    Scenario("mixed_2+1+1", ((2, 2), (2,), (2,)), (3, 3, 3, 3)),
    Scenario("unequal_2131", ((2, 1, 3, 1),), (2, 1, 3, 2, 2, 1, 2)),
    Scenario("unequal_mixed", ((2, 1), (3,), (1,)), (3, 2, 4)),
    Scenario("padded_2131", ((2, 1, 3, 1),), (2, 2, 2, 2, 2, 2, 2), padded_to=3),
)
WRONG_ON = ("2x2", "4x1", "mixed_2+1+1", "unequal_2131")
WRONG_VARIANTS = ("identity_backward", "mean_backward", "no_world_scale")
DDP_ON = ("mixed_2+1+1", "padded_2131", "4x1_dinov2")


def scenario(name: str) -> Scenario:
    """Return a scenario by name."""
    return next(one for one in SCENARIOS if one.name == name)


def build_model(patch_encoder: str, dtype: torch.dtype) -> Scal3RModel:
    """Return a small network with two memories, every parameter random."""
    config = Scal3RConfig(
        image_size=8,
        patch_size=4,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        mlp_ratio=2.0,
        num_register_tokens=2,
        patch_encoder=patch_encoder,
        encoder_layers=1,
        encoder_heads=4,
        tap_layers=[0, 1, 2, 3],
        memory_layers=[1, 3],
        memory_heads=2,
        memory_expansion=2,
        camera_heads=4,
        camera_layers=1,
        camera_iterations=2,
        dpt_features=8,
        dpt_channels=[8, 8, 8, 8],
        dpt_refine_channels=8,
    )
    model = Scal3RModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            normal = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_well_conditioned(name, normal))
    return model.to(dtype).train()


def _well_conditioned(name: str, normal: Tensor) -> Tensor:
    """Return values for a parameter that keep activations near one, from standard normal numbers of its shape.

    Independent of the model's own initialisation, which may hide mistakes behind zeros. In float32 every ReLU input
    that is nearly zero, and every weak direction of a memory's gradient, amplifies rounding: hence small images too.
    """
    if name.endswith("gamma"):
        return 0.3 + 0.1 * normal
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.1 * normal
    if normal.dim() == 1:
        return 0.1 * normal
    if name.endswith((".w0", ".w1", ".w2")):
        return normal * normal.shape[1] ** -0.5
    if "token" in name or "pos_embed" in name:
        return 0.3 * normal
    return 0.5 * normal * normal[0].numel() ** -0.5


def chunk_images(scenario: Scenario, sequence: int, chunk: int, dtype: torch.dtype) -> Tensor:
    """Return the pixels of one chunk, [S, 3, H, W]."""
    generator = torch.Generator().manual_seed(100 * sequence + chunk)
    shape = (scenario.num_frames[chunk], 3, *IMAGE_HW)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def chunk_loss(prediction: dict[str, Tensor], sequence: int, chunk: int) -> Tensor:
    """Return the loss of one chunk, summed over its frames."""
    total = 0.0
    for index, name in enumerate(HEADS):
        generator = torch.Generator().manual_seed(10_000 + 1000 * index + 100 * sequence + chunk)
        value = prediction[name]
        target = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        total = total + (value - target).square().flatten(1).mean(1).sum()
    return total


def of_chunk(output: Scal3ROutput, column: int) -> dict[str, Tensor]:
    """Return the predictions of one chunk of a call on one sequence, without leading axes."""
    return {name: output[name][0][column] for name in HEADS}


def gradient_vector(model: torch.nn.Module, memories_only: bool = False) -> Tensor:
    """Return all gradients, or those of the memories, as one vector; parameters without gradient count as zero."""
    parts = [
        (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
        for name, parameter in model.named_parameters()
        if not memories_only or ".memory_units." in name
    ]
    return torch.cat(parts)
