"""A mixture of five data sets, one of them damaged, on two ranks: counted, completed, resumed exactly."""

import importlib
import time
from pathlib import Path

import pytest
import torch

from scal3r_data_tools import index
from scal3r_train.config import dump_yaml
from tests.conftest import LIMIT_S
from tests.data_tools.miniature import make_miniature
from tests.forking import ForkServer
from tests.training import tiny

SETS = ("blended_mvs", "replica", "tartanair", "virtual_kitti_2", "wildrgbd")
DAMAGED = "wildrgbd"
CHANGES = {
    "optim.num_steps": 16,
    "optim.warmup_steps": 2,
    "curriculum.group_size": {"1": 0.5, "2": 0.5},
    "curriculum.chunks_per_rank": {"1": 0.5, "2": 0.5},
    "data.max_fallback_share": 1.0,
    "data.synthetic_share": 0.5,
    "data.num_workers": 1,
    "data.augmentation": {"max_zoom": 1.3, "colour_jitter": 0.3, "per_frame_probability": 0.5},
    "validation.every": 0,
    "checkpoint.every": 5,
}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The indexes of five miniatures; in one, images are cut short or gone and a depth map is no image."""
    folder = tmp_path_factory.mktemp("five")
    for name in SETS:
        layout = importlib.import_module(f"tests.data_tools.layouts.{name}")
        scene = layout.scene() if "scene" in vars(layout) else make_miniature()
        (folder / name).mkdir()
        layout.write(folder / name, scene)
        index.main(name, folder / name, folder / f"{name}.parquet", vars(layout).get("OPTIONS", ()))
    pictures = sorted((folder / DAMAGED).rglob("rgb/*.png"))
    for number, picture in enumerate(pictures):
        if number in (1, 6):
            picture.write_bytes(picture.read_bytes()[:500])
        elif number in (8, 9, 10):
            picture.unlink()
    next(iter(sorted((folder / DAMAGED).rglob("depth/*.png")))).write_bytes(b"no depth")
    return {name: folder / f"{name}.parquet" for name in SETS}


def write_recipe(mixture: dict[str, Path], folder: Path) -> Path:
    sources = [{"index": str(path)} for path in mixture.values()]
    recipe = tiny.recipe(mixture["replica"], folder / "run", CHANGES | {"data.sources": sources})
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def whole_run(mixture: dict[str, Path], forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = forks.run_ranks(2, "-m", "scal3r_train.train", write_recipe(mixture, folder))
    assert done.returncode == 0, done.stderr[-3000:]
    for told in ("another window takes the place of", "such frames of"):  # once each, for all of the sequence
        assert done.stderr.count(told) == 1
    return folder / "run"


def test_damage_is_counted_and_the_run_completes(whole_run: Path) -> None:
    last = tiny.steps(whole_run)[-1]
    assert last["step"] == CHANGES["optim.num_steps"]
    assert last["data/fallbacks"] > 0
    assert last["data/skipped_frames"] == last[f"data/skipped_frames/{DAMAGED}"] > 0
    assert all(last[f"data/frames/{name}"] > 0 for name in SETS)
    faults = tiny.faults(whole_run)
    assert {fault["sequence"].split("/")[-1] for fault in faults} == {faults[0]["sequence"].split("/")[-1]}
    assert sum("frame" in fault for fault in faults) == last["data/skipped_frames"]
    assert all(DAMAGED in fault["reason"] for fault in faults)
    assert all(line["loss"] is not None for line in tiny.steps(whole_run))
    assert (whole_run / "model" / "model.safetensors").is_file()


def test_a_killed_run_goes_on_exactly(
    whole_run: Path, mixture: dict[str, Path], forks: ForkServer, tmp_path: Path
) -> None:
    recipe = write_recipe(mixture, tmp_path)
    kill_after(forks, recipe, tmp_path / "run" / "metrics.jsonl", num_lines=8)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) >= 1
    done = forks.run_ranks(2, "-m", "scal3r_train.train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(whole_run)
    assert tiny.faults(tmp_path / "run") == tiny.faults(whole_run)
    expected = tiny.weights(whole_run)
    for name, value in tiny.weights(tmp_path / "run").items():
        assert torch.equal(value, expected[name]), name


def kill_after(forks: ForkServer, recipe: Path, metrics: Path, num_lines: int) -> None:
    """Start the run on two ranks and kill all of it once it has written some steps."""
    ranks = forks.start_ranks(2, "-m", "scal3r_train.train", recipe)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not metrics.exists() or len(metrics.read_text().splitlines()) < num_lines:
            assert all(rank.poll() is None for rank in ranks), "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        for rank in ranks:
            rank.kill()


def test_miniatures_are_of_both_kinds(mixture: dict[str, Path]) -> None:
    """The share of rendered data is set, so there must be both."""
    from scal3r_train.data.index.index import load_index

    kinds = {name: load_index(path)[0].is_synthetic for name, path in mixture.items()}
    assert set(kinds.values()) == {True, False}
