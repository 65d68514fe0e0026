"""Recipes and the small checkpoint are found by name from any folder; a path wins."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from scal3r_train import cli
from scal3r_train.config import UserError, load_config, load_mapping
from scal3r_train.data.index.source import open_source
from scal3r_train.data.known_cameras import with_cameras
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.metrics.trajectory_io import read_trajectory
from scal3r_train.model.weight_files import checkpoint_folder, folder_sha256
from scal3r_train.recipe import load_training_recipe
from scal3r_train.shipped import find_checkpoint, find_recipe
from tests.conftest import PROJECT_ROOT

RECIPES = PROJECT_ROOT / "recipes"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["debug/cpu", "debug/cpu.yaml", "recipes/debug/cpu.yaml", "recipes/debug/cpu"]
)
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    assert find_recipe(name) == RECIPES / "debug" / "cpu.yaml"
    assert load_mapping(name) == load_mapping(RECIPES / "debug" / "cpu.yaml")


def test_a_bare_name_is_enough_where_one_recipe_has_it() -> None:
    assert find_recipe("small") == RECIPES / "reconstruct" / "small.yaml"
    assert find_recipe("no_gcm") == Path("no_gcm")  # of an ablation and of the study
    assert find_recipe("*") == Path("*")


def test_a_file_wins_over_a_name_and_a_folder_does_not(tmp_path: Path) -> None:
    (tmp_path / "debug" / "cpu").mkdir(parents=True)
    assert find_recipe("debug/cpu") == RECIPES / "debug" / "cpu.yaml"
    (tmp_path / "debug" / "cpu.yaml").write_text("seed: 7\n")
    assert load_mapping("debug/cpu.yaml") == {"seed": 7}


def test_a_parent_is_found_beside_the_file_first_and_never_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    child = tmp_path / "mine" / "child.yaml"
    child.write_text("extends: debug/cpu\nseed: 7\n")
    shipped = load_mapping(RECIPES / "debug" / "cpu.yaml")
    assert load_mapping(child) == {**shipped, "seed": 7}
    (tmp_path / "debug").mkdir()
    (tmp_path / "debug" / "cpu").write_text("seed: 8\n")
    assert load_mapping(child) == {**shipped, "seed": 7}
    (tmp_path / "mine" / "debug").mkdir()
    (tmp_path / "mine" / "debug" / "cpu").write_text("name: beside\n")
    assert load_mapping(child) == {"name": "beside", "seed": 7}


@pytest.mark.parametrize("name", ["debug/gpu", "../recipes/debug/cpu.yaml", "", "recipes", "/debug/cpu"])
def test_what_is_neither_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match="recipe"):
        load_mapping(name)


@pytest.mark.parametrize("name", ["scal3r-tiny", "assets/scal3r-tiny"])
def test_the_small_checkpoint_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    assert checkpoint_folder(Path(name)) == PROJECT_ROOT / "assets" / "scal3r-tiny"
    (tmp_path / name).mkdir(parents=True)
    assert find_checkpoint(name) == Path(name)


@pytest.mark.parametrize("name", ["clips/circuit", "assets/clips/circuit"])
def test_the_clip_is_found_by_its_name_and_has_its_truth(name: str) -> None:
    record = open_source(name)
    assert record.root == PROJECT_ROOT / "assets" / "clips" / "circuit"
    assert record.num_frames == 200
    assert {tuple(hw) for hw in record.image_size.tolist()} == {(84, 144)}
    poses = read_trajectory(record.root / "poses.txt").world_from_cam
    assert len(poses) == 200
    steps = poses[:, :, 3].diff(dim=0).norm(dim=1)
    assert 1 < float(steps.min()) <= float(steps.max()) < 2.5  # metres a frame, forward
    assert bool((poses.diff(dim=0)[:, :, 3] * poses[:-1, :, 2]).sum(1).gt(0).all())
    sizes = [path.stat().st_size for path in record.root.iterdir()]
    assert sum(sizes) < 1_000_000  # it is part of the wheel
    assert "Free Art License" in (record.root / "README.md").read_text()
    intrinsics = tuple(map(float, (record.root / "intrinsics.txt").read_text().split()))
    assert with_cameras(record, intrinsics).intrinsics is not None


def test_a_folder_of_that_name_wins(tmp_path: Path) -> None:
    (tmp_path / "clips" / "circuit").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no images"):
        open_source("clips/circuit")


def test_every_recipe_is_listed_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    files = {path for path in RECIPES.rglob("*") if path.is_file()}
    assert {RECIPES / (name if "." in name else f"{name}.yaml") for name in lines} == files
    assert lines["debug/cpu"] == (RECIPES / "debug/cpu.yaml").read_text().splitlines()[0].removeprefix("# ")
    assert lines["launch/slurm.sh"].startswith("Trains a recipe under SLURM")


def test_the_path_of_one_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "--path", "accelerate/zero2.yaml"]) == 0
    assert capsys.readouterr().out == f"{RECIPES / 'accelerate' / 'zero2.yaml'}\n"
    assert cli.main(["recipes", "--path", "accelerate/zero9.yaml"]) == 2
    assert "`scal3r recipes` lists them" in capsys.readouterr().err


def test_the_shipped_card_is_of_the_shipped_weights() -> None:
    """`python -m benchmarks.shipped_card` writes it anew."""
    folder = find_checkpoint("scal3r-tiny")
    card = ModelCard.load(folder / "README.md")
    assert f"`{folder_sha256(folder)}`" in card.text, "run python -m benchmarks.shipped_card"
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "image-to-3d")
    assert {result.metric_type for result in card.data.eval_results} >= {"rotation_deg", "abs_rel"}
    assert load_training_recipe(folder / "recipe.yaml").name == "scal3r_tiny"
    assert str(PROJECT_ROOT) not in card.content


def test_the_model_of_roads_is_small_and_its_card_names_its_weights_and_licences() -> None:
    folder = find_checkpoint("scal3r-small")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
    card = ModelCard.load(folder / "README.md")
    assert f"`{folder_sha256(folder)}`" in card.text
    assert card.data.license == "other" and "Free Art License" in card.text
    assert load_training_recipe(folder / "recipe.yaml").name == "small_stage_2"
    assert "/root/" not in card.content + (folder / "recipe.yaml").read_text()
    assert load_config(ReconstructionRecipe, "small", []).model.checkpoint == Path("scal3r-small")
