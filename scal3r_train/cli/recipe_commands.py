"""train, plan, eval and config, whose first argument is a recipe, and recipes, which lists the shipped ones."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scal3r_train.cli.parser import add_command, add_overrides
from scal3r_train.notes import answer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from scal3r_eval.recipe import AnyRecipe
    from scal3r_train.cli.parser import Commands


def add_recipe_commands(commands: "Commands") -> None:
    """Add train, plan, eval and config, whose first argument is a recipe, and recipes."""
    train = add_command(
        commands,
        "train",
        _train,
        "Train the model a recipe describes, on this process or on the ranks of torchrun or accelerate.",
        "scal3r train recipes/demo.yaml seed=1",
    )
    plan = add_command(
        commands,
        "plan",
        _plan,
        "Print who would compute what: context groups, effective lengths, tokens and bytes per rank. world_size (by "
        "default the launcher's), steps (of which plans are drawn) and ranks_per_node are arguments of this command, "
        "all other keys change the recipe.",
        "scal3r plan recipes/demo.yaml world_size=32",
    )
    evaluation = add_command(
        commands,
        "eval",
        _eval,
        "Run methods on a benchmark, score them and write results.json and reports; goes on where it stopped.",
        "scal3r eval recipes/eval/synthetic.yaml checkpoint=runs/demo/model",
    )
    config = add_command(
        commands,
        "config",
        _config,
        "Print the resolved recipe, every default included, and start nothing.",
        "scal3r config recipes/demo.yaml seed=1",
    )
    config.add_argument(
        "--describe",
        action="store_true",
        help="print instead every key of such a recipe: type, unit, default, the recipe's value, and what it is",
    )
    for parser in (train, plan, evaluation, config):
        parser.add_argument(
            "recipe", metavar="RECIPE", type=Path, help="YAML file, or a name of `scal3r recipes`"
        )
        add_overrides(parser)
    recipes = add_command(
        commands,
        "recipes",
        _recipes,
        "List the recipes that come with the package, which all commands take by name, and the files that start them.",
        "scal3r recipes --path accelerate/zero2.yaml",
    )
    recipes.add_argument("--path", metavar="NAME", help="print where this one lies instead")


def _train(arguments: argparse.Namespace) -> int:
    from scal3r_train import train

    return train.main([str(arguments.recipe), *arguments.overrides])


def _plan(arguments: argparse.Namespace) -> int | None:
    from scal3r_train.parallel.host_memory import launched_sizes

    launched = launched_sizes()
    world_size, overrides = _take_count(arguments.overrides, "world_size", launched and launched.world_size)
    num_steps, overrides = _take_count(overrides, "steps", None)
    ranks_per_node, overrides = _take_count(
        overrides, "ranks_per_node", launched and launched.local_world_size
    )
    if launched and launched.rank > 0:
        return 0  # the first of them prints
    from scal3r_train.planning import report

    return report.main(arguments.recipe, overrides, world_size, num_steps, ranks_per_node)


def _eval(arguments: argparse.Namespace) -> int | None:
    from scal3r_eval import pipeline

    return pipeline.main(arguments.recipe, arguments.overrides)


def _config(arguments: argparse.Namespace) -> None:
    from scal3r_eval.recipe import load_any_recipe
    from scal3r_train.config import dump_yaml

    recipe = load_any_recipe(arguments.recipe, arguments.overrides)
    if arguments.describe:
        from scal3r_train.cli.settings_reference import described

        answer(*described(recipe, _options_within(recipe)).splitlines())
    else:
        answer(*dump_yaml(recipe).splitlines())


def _options_within(recipe: "AnyRecipe") -> "dict[str, type[BaseModel]]":
    """Return settings that the kind of a recipe does not hold, by title: of added losses, and words of a data set."""
    from scal3r_data_tools.registry import known_adapter
    from scal3r_data_tools.synth import SynthSettings
    from scal3r_eval.recipe import EvalRecipe
    from scal3r_train.training.recipe import TrainingRecipe

    if isinstance(recipe, TrainingRecipe):
        return {f"losses.added.{name}": type(settings) for name, settings in recipe.losses.added.items()}
    if not isinstance(recipe, EvalRecipe):
        return {}
    if recipe.benchmark.towns:
        return {"Words of benchmark.options, for the towns": SynthSettings}
    if recipe.benchmark.adapter is None:
        return {}
    options = known_adapter(recipe.benchmark.adapter).options
    return (
        {f"Words of benchmark.options, for {recipe.benchmark.adapter}": options}
        if options.model_fields
        else {}
    )


def _recipes(arguments: argparse.Namespace) -> None:
    from scal3r_train.config import UserError
    from scal3r_train.shipped import first_comment, recipe_names, shipped_recipe

    if arguments.path is not None:
        path = shipped_recipe(arguments.path)
        if path is None:
            raise UserError(f"no shipped recipe is called {arguments.path}; `scal3r recipes` lists them")
        answer(str(path))
        return
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        path = shipped_recipe(name)
        assert path is not None
        answer(f"{name:{width}}  {first_comment(path)}")


def _take_count(overrides: Sequence[str], name: str, default: int | None) -> tuple[int | None, list[str]]:
    """Return the positive number given as `name=number` (the last one counts) and the other overrides."""
    from scal3r_train.config import UserError

    prefix = f"{name}="
    values = [override.removeprefix(prefix) for override in overrides if override.startswith(prefix)]
    others = [override for override in overrides if not override.startswith(prefix)]
    if not values:
        return default, others
    if not (values[-1].isascii() and values[-1].isdecimal() and int(values[-1]) > 0):
        raise UserError(f"{prefix}{values[-1]} is no positive whole number")
    return int(values[-1]), others
