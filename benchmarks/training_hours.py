"""Hours of GPU that training recipes would take, estimated and not measured: operations over a share of the peak.

    python -m benchmarks.training_hours recipes/base/stage_0.yaml recipes/base/stage_1.yaml recipes/base/stage_2.yaml

The recipes are the stages of one training, in order: a stage without a network has that of the stage before. torch
counts the operations of one forward and backward of a chunk of every size that is drawn (no memory or GPU is needed);
activation checkpointing computes the forward again, a third more. A small network reaches a small share of a device's
peak: 20 % is assumed, and 5 % where the patch encoder is trained alone, whose time goes into reading and writing maps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from scal3r_train.config import UserError, run_command
from scal3r_train.data.sampling.plan import plan_step
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import build_on_meta
from scal3r_train.notes import answer
from scal3r_train.planning.report import plannable_sources
from scal3r_train.recipe import load_training_recipe
from scal3r_train.training.monitoring.flop_count import counted_flops, peak_flops_by_name
from scal3r_train.training.recipe import TrainingRecipe

NUM_PLANS = 2000
SHARE, ENCODER_SHARE = 0.2, 0.05
RECOMPUTED = 4 / 3  # forward, backward (two forwards), and the forward again, over the first three
DEVICES = ("RTX 4090", "A100", "H100")


def operations(recipe: TrainingRecipe, config: Scal3RConfig) -> float:
    """Return the floating-point operations of an average optimizer step of one rank."""
    network, is_encoder = config.to_json_string(), recipe.model.train == "patch_encoder"
    sources = plannable_sources(recipe.data)[0]
    unknown = [type(source)(source.name, source.weight, None) for source in sources]
    total = 0.0
    for step in range(NUM_PLANS):
        plan = plan_step(recipe.curriculum, unknown, recipe.seed, step, 1)
        shape = plan.shape
        images = 1, 1, shape.chunk_size, 3, shape.resolution.height, shape.resolution.width
        one = _of_chunk(network, images, is_encoder=is_encoder)
        total += plan.num_real_chunks * one
    repeated = 1 if recipe.model.activation_checkpointing == "none" else RECOMPUTED
    return total / NUM_PLANS * repeated * recipe.optim.accumulation_steps


@cache
def _of_chunk(network: str, images_shape: tuple[int, ...], *, is_encoder: bool) -> int:
    """Return the operations of one chunk through the network of a config.json; kept, for they take half a minute."""
    config = Scal3RConfig(**json.loads(network))
    return encoder_flops(config, images_shape) if is_encoder else counted_flops(config, images_shape)


def encoder_flops(config: Scal3RConfig, images_shape: tuple[int, ...]) -> int:
    """Return what torch counts of one forward and backward of the patch encoder on [B, K, S, 3, H, W]."""
    encoder = build_on_meta(Scal3RConfig.from_dict(config.to_dict())).train().aggregator.patch_embed
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        tensors = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_()
            for name, tensor in encoder.named_parameters()
        }
        output = functional_call(encoder, tensors, (torch.empty(images_shape),))
        values = output if isinstance(output, tuple) else (output,)
        torch.stack([value.sum() for value in values]).sum().backward()
    return counter.get_total_flops()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each recipe; returns 0.

    Raises:
        UserError: a recipe cannot be read, or the first has no network.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="+", type=Path)
    arguments = parser.parse_args(argv)
    config = None
    for path in arguments.recipes:
        recipe = load_training_recipe(path)
        if recipe.model.network is not None:
            config = Scal3RConfig(**recipe.model.network.model_dump())
        if config is None:
            raise UserError(f"{path} starts from a checkpoint; name the recipe with its network before it")
        flops = operations(recipe, config)
        share = ENCODER_SHARE if recipe.model.train == "patch_encoder" else SHARE
        hours = [
            f"{flops * recipe.optim.num_steps / share / peak / 3600:.1f} h on {device}"
            for device in DEVICES
            if (peak := peak_flops_by_name(device)) is not None
        ]
        answer(
            f"{path}: {recipe.optim.num_steps} steps of {flops / 1e12:.2f} TFLOP; at {100 * share:.0f} % of the peak "
            + ", ".join(hours)
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(lambda: main()))
