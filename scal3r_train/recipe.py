"""Reading a recipe file as the kind of recipe that its `task` names: a training run or a reconstruction.

What may stand in it: `training/recipe.py` and `inference/settings.py`. Recipes of evaluations and studies are read by
`scal3r_eval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from scal3r_train.config import UserError, load_mapping, validate_mapping
from scal3r_train.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from scal3r_train.inference.settings import ReconstructionRecipe

    Recipe: TypeAlias = TrainingRecipe | ReconstructionRecipe

TASKS = ("train", "reconstruct")
COMMANDS_ABOVE = {
    "eval": "scal3r eval",
    "study": "python -m scal3r_eval.study",
}  # whose recipes a higher layer reads


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a file, of the kind its `task` names (train when it names none).

    Raises:
        UserError: unreadable, unknown or contradictory; one line.
    """
    mapping = load_mapping(path, overrides)
    task = mapping.get("task", "train")
    if not isinstance(task, str) or task not in (*TASKS, *COMMANDS_ABOVE):
        raise UserError(f"{path}: task = {task!r:.40}: it should be one of {', '.join(TASKS)}")
    if task in COMMANDS_ABOVE:
        raise UserError(f"{path} is a recipe for `{COMMANDS_ABOVE[task]}`")
    return validate_mapping(_recipe_class(task), mapping, str(path))


def _recipe_class(task: str) -> type[Recipe]:
    if task == "train":
        return TrainingRecipe
    # Not at the top: reconstruction brings transformers' models along, which takes seconds.
    from scal3r_train.inference.settings import ReconstructionRecipe  # noqa: PLC0415

    return ReconstructionRecipe


def load_training_recipe(path: str | Path, overrides: Sequence[str] = ()) -> TrainingRecipe:
    """Return a training recipe.

    Raises:
        UserError: as `load_recipe`, or another kind of recipe.
    """
    recipe = load_recipe(path, overrides)
    if not isinstance(recipe, TrainingRecipe):
        raise UserError(f"{path} is a recipe for `scal3r {recipe.task}`, not for training")
    return recipe
