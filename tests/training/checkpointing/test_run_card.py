"""Exported folders: the card is true of the run, the weights are the same in one file or in shards."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel

from scal3r_train import __version__
from scal3r_train.config import load_config
from scal3r_train.data.index.index import load_index, write_index
from scal3r_train.model.configuration_scal3r import PROCESSOR_FILE
from scal3r_train.model.load_model import checkpoint_sha256, load_model
from scal3r_train.parallel.process import Process
from scal3r_train.train import build_model
from scal3r_train.training.checkpointing.run_card import CardWriter, _from_hub_cache, validations
from scal3r_train.training.recipe import TrainingRecipe
from tests.training import tiny
from tests.training.conftest import Ranks
from tests.training.test_resume import assert_equal_states

OneProcess = Callable[..., Path]


def test_a_run_describes_its_models(one_process: OneProcess) -> None:
    run = one_process()
    folder = run / "model"
    text = ModelCard.load(folder / "README.md").text
    assert "| towns | CC0-1.0 | 4 | 80 | " in text
    digest = hashlib.sha256(
        (folder / "config.json").read_bytes() + (folder / "model.safetensors").read_bytes()
    )
    assert digest.hexdigest() in text
    assert "5 of 5" in text and f"scal3r_train {__version__}" in text
    assert "1 process, engine single, fp32, on CPU" in text
    first, last = (tiny.metrics(run, "val/")[place] for place in (0, -1))
    assert (first["step"], last["step"]) == (0, 5)
    key = "val/rotation_deg"
    assert f"| {key} | {first[key]:.4g} | {last[key]:.4g} |" in text
    processor = json.loads((folder / PROCESSOR_FILE).read_text())
    as_trained = {"image_size": 42, "patch_size": 14, "chunk_size": 4, "overlap": 1}
    assert as_trained.items() <= processor.items()
    # Trained and validated on the same towns.
    assert "On windows of 4 sequences of towns, 4 of which the run also trained on" in text
    card = ModelCard.load(folder / "README.md")
    assert "held-out" not in card.content
    assert {f"val/{one.metric_type}": one.metric_value for one in card.data.eval_results} == {
        name: value for name, value in last.items() if name != "step" and value is not None
    }
    published, own = (load_config(TrainingRecipe, place / "recipe.yaml") for place in (folder, run))
    assert published.optim == own.optim and published.output_dir != own.output_dir
    place = str(run.parent.parent)
    for path in (*folder.iterdir(), *(run / "checkpoints/step_00000004/model").iterdir()):
        assert place.encode() not in path.read_bytes(), path
    earlier = (run / "checkpoints/step_00000004/model/README.md").read_text()
    assert "4 of 5" in earlier and "at step 3" in earlier and "was to make" in earlier


@pytest.mark.parametrize(("rows", "num_trained_on"), [((3,), 0), ((2, 3), 1)])
def test_held_out_is_what_no_window_of_the_training_comes_from(
    towns: Path, tmp_path: Path, rows: tuple[int, ...], num_trained_on: int
) -> None:
    index = load_index(towns)
    write_index(tmp_path / "train.parquet", [index[row] for row in range(3)])
    write_index(tmp_path / "val.parquet", [index[row] for row in rows])
    recipe = tiny.recipe(tmp_path / "train.parquet", tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "val/auc_5": 0.5, "seconds": 1.0}\n')
    model = build_model(recipe.model)
    writer = CardWriter(
        recipe,
        SimpleNamespace(process=Process(0, 1, torch.device("cpu")), name="single"),  # type: ignore[arg-type]
        model,
        [load_index(tmp_path / "train.parquet")],
        [load_index(tmp_path / "val.parquet")],
    )
    model.save_pretrained(tmp_path / "model")
    writer.describe(tmp_path / "model", 5)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert ("held-out" in card.content) == (num_trained_on == 0)
    assert (f"{num_trained_on} of which" in card.text) == (num_trained_on > 0)
    assert [result.metric_type for result in card.data.eval_results] == ["auc_5"]


@pytest.mark.parametrize(
    ("checkpoint", "base"),
    [
        ("/x/hub/models--facebook--VGGT-1B/snapshots/0a1b/", "facebook/VGGT-1B"),
        ("/x/facebook/VGGT", None),
        (None, None),
    ],
)
def test_the_base_is_known_of_downloads_of_the_hub(checkpoint: str | None, base: str | None) -> None:
    assert _from_hub_cache(checkpoint) == base


def test_what_is_kept_out_is_no_training_data(towns: Path, tmp_path: Path) -> None:
    index = load_index(towns)
    kept_out = replace(index[2], dataset="circuits", sequence_id="ruudskogen/000")
    write_index(tmp_path / "train.parquet", [index[0], index[1], kept_out])
    recipe = tiny.recipe(tmp_path / "train.parquet", tmp_path)
    model = build_model(recipe.model)
    engine = SimpleNamespace(process=Process(0, 1, torch.device("cpu")), name="single")
    writer = CardWriter(recipe, engine, model, [load_index(tmp_path / "train.parquet")])  # type: ignore[arg-type]
    model.save_pretrained(tmp_path / "model")
    writer.describe(tmp_path / "model", 1)
    text = (tmp_path / "model" / "README.md").read_text()
    assert "| towns | CC0-1.0 | 2 | 40 | " in text and "| circuits |" not in text
    assert "1 sequences of these indexes were kept out" in text


def test_ranks_are_in_the_card(ranks: Ranks) -> None:
    assert "2 processes, engine ddp, fp32, on CPU" in (ranks.folder / "shared/model/README.md").read_text()


def test_shards_load_the_same(one_process: OneProcess) -> None:
    """The same run, exported in files of at most 20 KB."""
    whole = one_process() / "model"
    shards = one_process({"checkpoint": {"every": 2, "max_shard_size": "20KB"}}) / "model"
    files = sorted(path.name for path in shards.glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert checkpoint_sha256(shards) in (shards / "README.md").read_text()
    images = torch.rand(1, 2, 4, 3, 28, 42)
    model = load_model(whole, torch.device("cpu"))
    for folder in (whole, shards):
        loaded = AutoModel.from_pretrained(folder).eval()
        assert_equal_states(loaded.state_dict(), model.state_dict())
        with torch.no_grad():
            output, expected = loaded(images), model(images)
        for (
            name
        ) in expected:  # not bit for bit: where a file's tensors begin in memory decides how they are summed
            torch.testing.assert_close(output[name], expected[name], rtol=1e-5, atol=1e-6)


def test_metrics_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert validations(path, 9) == ({}, {})
    path.write_text('{"step": 1, "loss": 1.0}\n')
    assert validations(path, 9) == ({}, {})
    path.write_text('{"step": 3, "val/auc_5": 0.5, "val/abs_rel": null}\n{"step": 3, "loss": 1.0}\n')
    assert validations(path, 9) == ({}, {"step": 3, "val/auc_5": 0.5})


def test_metrics_of_a_run_that_has_gone_on(tmp_path: Path) -> None:
    """The card is written while later lines are; the last one is cut short."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "val/auc_5": 0.1}\n{"step": 3, "val/auc_5": 0.5}\n{"step": 6, "val/auc_5": 0.9}\n{"st'
    )
    assert validations(path, 5) == ({"step": 0, "val/auc_5": 0.1}, {"step": 3, "val/auc_5": 0.5})
