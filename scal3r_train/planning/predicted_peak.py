"""The memory that a run's largest step will need, for the table with which a run begins."""

from __future__ import annotations

from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.parallel.settings import EngineName
from scal3r_train.planning.choices import Choice, Costs
from scal3r_train.planning.stages import run_stages
from scal3r_train.planning.step_bytes import Numerics
from scal3r_train.training.recipe import TrainingRecipe


def predicted_peak(
    recipe: TrainingRecipe, network: Scal3RConfig, engine: EngineName, world_size: int, numerics: Numerics
) -> int:
    """Return the most bytes of tensors that a rank holds at one time of the largest step of any stage.

    Takes about a second of one core (1 billion parameters: two); asks no generator for numbers.
    """
    costs = Costs(
        network,
        recipe.losses,
        recipe.optim,
        world_size,
        numerics,
        chunks_per_pass=recipe.model.chunks_per_pass,
    )
    choice = Choice(
        engine,
        recipe.model.activation_checkpointing,
        recipe.parallel.precision,
        recipe.model.train,
        recipe.model.frozen_dtype,
    )
    return max(costs.peak(choice, stage.largest) for stage in run_stages(recipe))
