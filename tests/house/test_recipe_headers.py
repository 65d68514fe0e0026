"""What a training recipe says of itself is true: its commands run it, and its world can be planned without data."""

import re
from pathlib import Path
from typing import Any

import pytest

from scal3r_eval.recipe import load_any_recipe
from scal3r_train.data.sampling.plan import plan_step
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import build_on_meta
from scal3r_train.planning import report
from scal3r_train.recipe import TrainingRecipe, load_training_recipe
from tests.conftest import PROJECT_ROOT
from tests.house.recipe_header import commands_of, header_of, launches_of
from tests.house.test_recipes import RECIPES, relative

TRAINING = [path for path in RECIPES if isinstance(load_any_recipe(path), TrainingRecipe)]
FOLDERS = {"paper", "finetune", "debug", "ablation", "base"}
STEPS = 40


def test_all_kinds_are_there() -> None:
    assert {path.parent.name for path in TRAINING} >= FOLDERS


@pytest.mark.parametrize("path", TRAINING, ids=relative)
def test_its_commands_are_understood_and_start_this_recipe(path: Path) -> None:
    launches = launches_of(path)
    assert launches, "no command that trains"
    for launch in launches:
        assert launch.recipe == relative(path)
        load_training_recipe(PROJECT_ROOT / launch.recipe, launch.overrides)
    assert len({launch.world_size for launch in launches}) == 1, (
        "its commands start worlds of different sizes"
    )


@pytest.mark.parametrize("path", [path for path in TRAINING if path.parent.name in FOLDERS], ids=relative)
def test_its_header_states_hardware_hours_and_numbers(path: Path) -> None:
    text = "\n".join(header_of(path))
    assert "Hardware: " in text
    assert "Expected numbers: " in text
    assert re.search(r"\b([Hh]ours|\d+ s)\b", text), "how long it takes, or that nobody measured it"
    for _, *words in (command for command in commands_of(path) if command[:2] == ["scal3r", "plan"]):
        world_sizes = [word.removeprefix("world_size=") for word in words if word.startswith("world_size=")]
        assert world_sizes == [str(launches_of(path)[0].world_size)]


@pytest.mark.parametrize("path", TRAINING, ids=relative)
def test_its_world_can_be_planned_without_its_data(path: Path) -> None:
    """At the beginning of every stage, with equal work for all ranks."""
    recipe, world_size = load_training_recipe(path), launches_of(path)[0].world_size
    sources, _ = report.plannable_sources(recipe.data)
    unknown = [type(source)(source.name, source.weight, None) for source in sources]
    curriculum = recipe.curriculum.in_plans(recipe.optim.accumulation_steps)
    begins = [0, *(stage.until for stage in curriculum.stages if stage.until is not None)]
    for begin in begins:
        assert begin < recipe.optim.num_steps * recipe.optim.accumulation_steps, "a stage that never comes"
        for step in range(begin, begin + STEPS):
            plan = plan_step(curriculum, unknown, recipe.seed, step, world_size)
            assert sum(len(group.ranks) for group in plan.groups) == world_size
            assert plan.num_real_chunks == (
                world_size * plan.shape.chunks_per_rank * len(plan.groups[0].windows)
            )
    used = {
        size
        for stage in recipe.curriculum.every_stage()
        for size, weight in stage.group_size.items()
        if weight
    }
    assert max(used) <= world_size, "a group that this world cannot form"


@pytest.mark.parametrize(
    "name",
    [
        "finetune/full_8gpu",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("paper/stage_1", "paper/stage_2_long")),
    ],
)
def test_the_published_network_is_planned_at_that_size(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`scal3r plan` with the network written out, since nobody has the checkpoint here."""
    path = PROJECT_ROOT / "recipes" / f"{name}.yaml"
    without_checkpoint = ["model.checkpoint=null", "model.network={}"]
    world_size = launches_of(path)[0].world_size
    assert report.main(str(path), without_checkpoint, world_size, 20) == 0
    out = capsys.readouterr().out
    drawn = [
        int(number) for number in re.findall(rf": (\d+) steps on {world_size} ranks", out)
    ]  # of each stage
    assert abs(sum(drawn) - 20) < max(1, len(drawn))


def flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted path."""
    leaves: dict[str, Any] = {}
    for key, value in mapping.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


@pytest.mark.parametrize(
    ("name", "change"),
    [("no_gcs", {"model.network.memory_scope": "chunk"}), ("no_gcm", {"model.network.memory_layers": []})],
)
def test_ablations_are_equal_but_for_the_ablated_part(name: str, change: dict[str, Any]) -> None:
    full, other = (
        flat(load_training_recipe(PROJECT_ROOT / f"recipes/ablation/{one}.yaml").model_dump(mode="json"))
        for one in ("full", name)
    )
    differing = {key: other[key] for key in full if full[key] != other[key]}
    assert differing == change | {"name": f"ablation_{name}", "output_dir": f"runs/ablation/{name}"}


def test_the_base_recipes_are_one_training_of_the_stated_size() -> None:
    recipes = [load_training_recipe(PROJECT_ROOT / f"recipes/base/stage_{stage}.yaml") for stage in range(3)]
    network = recipes[0].model.network
    assert network is not None
    model = build_on_meta(Scal3RConfig(**network.model_dump()))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert round(millions) == 61
    for stage, recipe in enumerate(recipes):
        header = header_of(PROJECT_ROOT / f"recipes/base/stage_{stage}.yaml")
        assert f"{millions:.0f} M parameters" in header[0]
        assert recipe.losses.normalization == "data"
        assert recipe.parallel.precision == "bf16"
        assert recipe.curriculum.resolution == recipe.validation.curriculum.resolution
        if stage:
            assert recipe.model.network is None
            assert recipe.model.checkpoint == f"{recipes[stage - 1].output_dir}/model_ema"
    assert [max(k for k, w in r.curriculum.chunks_per_rank.items() if w) for r in recipes] == [1, 3, 64]


def test_the_papers_numbers() -> None:
    """Those that it states (arXiv 2604.08542, section on training)."""
    recipe = load_training_recipe(PROJECT_ROOT / "recipes/paper/stage_1.yaml")
    optim = recipe.optim
    assert (optim.num_steps, optim.warmup_steps, optim.clip_norm) == (60_000, 2_000, 1.0)
    assert (optim.memory_lr, optim.backbone_lr, optim.min_lr_ratio) == (1e-4, 1e-5, 0.0)
    assert len(recipe.data.sources) == 18
    assert launches_of(PROJECT_ROOT / "recipes/paper/stage_1.yaml")[0].world_size == 32
    sources, _ = report.plannable_sources(recipe.data)
    plans = [plan_step(recipe.curriculum, sources, 0, step, 32) for step in range(300)]
    chunks = {window.num_chunks for plan in plans for group in plan.groups for window in group.windows}
    assert (min(chunks), max(chunks)) == (1, 32)
