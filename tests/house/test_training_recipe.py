"""Contradictions in a training recipe are one line that names them."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from scal3r_train.config import UserError, dump_yaml
from scal3r_train.recipe import TrainingRecipe, load_recipe, load_training_recipe
from tests.training import tiny


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(tiny.recipe(tmp_path / "index.parquet", tmp_path / "run")), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.num_step=5", "unknown key 'optim.num_step'; did you mean 'num_steps'?"),
        ("model.network.hiden_size=5", "did you mean 'hidden_size'?"),
        ("optim.num_steps=0", "optim.num_steps = 0: it should be a whole number of at least 1"),
        ("optim.num_steps=many", "optim.num_steps = 'many'"),
        ("optim.memory_lr=.inf", "optim.memory_lr"),
        ("curriculum.reverse_probability=1.5", "curriculum.reverse_probability = 1.5"),
        ("parallel.precision=fp16", "parallel.precision = 'fp16'"),
        ("model.checkpoint=runs/x/model", "model: give either checkpoint or network"),
        ("model.network=null", "model: give either checkpoint or network"),
        ("curriculum.resolution=[{height: 30, width: 42}]", "resolution 30x42 must be a multiple of patch_size 14"),
        ("validation.curriculum.resolution=[{height: 28, width: 40}]", "resolution 28x40"),
        ("curriculum.overlap={4: 1}", "overlap 4 must be below every chunk_size (4)"),
        ("curriculum.group_size={3: 1}", "group_size 3 is no power of two"),
        ("curriculum.chunk_size={0: 1}", "curriculum.chunk_size"),
        ("curriculum.stages=[{until: 3}]", "curriculum: stages.0.until = 3: the last stage has no end"),
        ("curriculum.stages=[{overlap: {5: 1}}]", "stages.0: overlap 5 must be below every chunk_size (4)"),
        ("curriculum.stages=[{overlab: {5: 1}}]", "did you mean 'overlap'?"),
        ("curriculum.stages=[{resolution: [{height: 30, width: 42}]}]", "resolution 30x42 must be a multiple"),
        ("validation.curriculum.stages=[{}]", "validation sees the same windows every time"),
        ("optim.stages=[{}, {memory_lr: 1.0}]", "optim: stages.0 needs `until`"),
        ("curriculum.stride={1: 0}", "stride needs at least one value with a positive weight"),
        ("curriculum.stride={1: -1}", "curriculum.stride.1 = -1"),
        ("model.network.num_heads=3", "num_heads"),
        ("model.train=heads",
         "model.train = 'heads': it should be 'all', 'memories', 'memories_and_heads' or 'patch_encoder'"),
        ("model.frozen_dtype=fp16", "model.frozen_dtype = 'fp16': it should be 'fp32' or 'bf16'"),
        ("model.frozen_dtype=bf16", "model: frozen_dtype bf16 has nothing to act on: train all freezes nothing"),
        ("data.sources=[]", "data.sources"),
        ("validation.sources=[]", "validation: every 3 needs sources"),
        ("task=fly", "task = 'fly': it should be one of train, reconstruct"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(path: Path, override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_training_recipe(path, [override])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.train=memories", "model.network.memory_layers=[]"],
         "model: train memories needs memories, and network.memory_layers is empty"),
        (["model.train=memories_and_heads", "model.network.memory_layers=[]"],
         "model: train memories_and_heads needs memories"),
        (["model.train=memories", "model.frozen_dtype=bf16"],
         "model.frozen_dtype bf16 needs parallel.precision bf16"),
    ],
)  # fmt: skip
def test_a_contradiction_is_one_line(path: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_training_recipe(path, overrides)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reconstruction_recipe_does_not_train(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("task: reconstruct\n", encoding="utf-8")
    with pytest.raises(UserError, match="is a recipe for `scal3r reconstruct`, not for training"):
        load_training_recipe(other)


def test_every_size_of_the_network_is_a_setting(path: Path) -> None:
    """The resolved recipe names all of them, so that it does not change with the defaults in code."""
    network = load_training_recipe(path).model_dump()["model"]["network"]
    for key, value in tiny.NETWORK.items():
        assert (list(network[key]) if isinstance(value, list) else network[key]) == value
    assert network["memory_gate_init"] == 0.1


def test_the_resolved_recipe_is_a_fixed_point(path: Path) -> None:
    recipe = load_recipe(path, ["optim.num_steps=7", "curriculum.group_size={1: 0.5, 4: 0.5}"])
    assert isinstance(recipe, TrainingRecipe)
    first = dump_yaml(recipe)
    path.write_text(first, encoding="utf-8")
    again = load_recipe(path)
    assert again == recipe
    assert dump_yaml(again) == first
    document: Any = YAML(typ="safe", pure=True).load(first)
    assert set(document) == set(TrainingRecipe.model_fields)
