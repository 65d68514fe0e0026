"""Exported folders: a card that the hub can read and that tells the truth, in one file or in shards."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel

from scal3r_train import __version__
from scal3r_train.data.index.index import DatasetSummary
from scal3r_train.model.configuration_scal3r import PROCESSOR_FILE
from scal3r_train.model.load_model import checkpoint_sha256, load_model
from scal3r_train.training.checkpointing.model_card import CardFacts, model_card, validations
from tests.training import tiny
from tests.training.conftest import Ranks
from tests.training.test_resume import assert_equal_states

OneProcess = Callable[..., Path]


def facts(**changes: Any) -> CardFacts:
    values: dict[str, Any] = {
        "name": "street: #1",
        "licence": "cc-by-nc-4.0",
        "num_parameters": 1_270_000_000,
        "started_from": "runs/vggt/model",
        "data": [
            DatasetSummary("kitti | raw", "CC BY-NC-SA 3.0", "https://example.org", 61, 12_000, 1.5, False)
        ],
        "resolutions": [(392, 518), (294, 518)],
        "chunk_sizes": [60],
        "num_steps": 1000,
        "world_size": 32,
        "engine": "fsdp2",
        "device": "NVIDIA H100",
        "precision": "bf16",
        "code_version": "1.2.3",
        "deny_list": "not applied",
        "step": 1000,
        "first_metrics": {"val/auc_5": 0.25},
        "last_metrics": {"val/auc_5": 0.75, "val/abs_rel": 0.0625},
        "last_metrics_step": 900,
        "recipe_file": "recipe.yaml",
        "checkpoint_sha256": "abc123",
    }
    return CardFacts(**values | changes)


def test_the_head_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(facts())).data
    assert data.license == "cc-by-nc-4.0"
    assert data.library_name == "scal3r_train"
    assert "scal3r" in data.tags and "3d-reconstruction" in data.tags


@pytest.mark.parametrize("licence", ["other", "mit: #1\n---\n", '"', "null"])
def test_a_licence_stays_one_value(licence: str) -> None:
    data = ModelCard(model_card(facts(licence=licence))).data
    assert data.license == licence
    assert ("license_name" in data.to_dict()) == (licence == "other")


def test_the_text_holds_every_fact() -> None:
    text = ModelCard(model_card(facts())).text
    for part in (
        "# street: #1",
        "1270.00 M parameters",
        "`runs/vggt/model`",
        "| kitti \\| raw | CC BY-NC-SA 3.0 | 61 | 12,000 | 1.50 | https://example.org |",
        "kept out of the training: not applied",
        "1,000 of 1,000",
        "32, engine fsdp2, bf16, on NVIDIA H100",
        "[recipe.yaml](recipe.yaml)",
        "scal3r_train 1.2.3",
        "`abc123`",
        "| metric | before step 0 | at step 900 |",
        "| val/auc_5 | 0.25 | 0.75 |",
        "| val/abs_rel | - | 0.0625 |",
        "392 x 518, 294 x 518 pixels in chunks of 60 frames",
        "AutoModel.from_pretrained",
    ):
        assert part in text, part
    assert "rendered" not in text and "was to make" not in text


def test_what_is_missing_is_said() -> None:
    rendered = DatasetSummary("towns", "", "", 1, 2, 0.0, True)
    text = model_card(
        facts(data=[rendered], started_from=None, step=7, last_metrics={}, deny_list="applied (v2)")
    )
    for part in (
        "trained from scratch",
        "| towns | not stated in the index | 1 | 2 | 0.00 | not stated in the index |",
        "All training data are rendered",
        "was to make",
        "did not validate",
        "kept out of the training: applied (v2)",
    ):
        assert part in text, part


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
    assert "1, engine single, fp32, on CPU" in text
    first, last = (tiny.metrics(run, "val/")[place] for place in (0, -1))
    assert (first["step"], last["step"]) == (0, 5)
    key = "val/rotation_deg"
    assert f"| {key} | {first[key]:.4g} | {last[key]:.4g} |" in text
    assert (folder / "recipe.yaml").read_text() == (run / "recipe.yaml").read_text()
    processor = json.loads((folder / PROCESSOR_FILE).read_text())
    as_trained = {"image_size": 42, "patch_size": 14, "chunk_size": 4, "overlap": 1}
    assert as_trained.items() <= processor.items()
    earlier = (run / "checkpoints/step_00000004/model/README.md").read_text()
    assert "4 of 5" in earlier and "at step 3" in earlier and "was to make" in earlier


def test_ranks_are_in_the_card(ranks: Ranks) -> None:
    assert "2, engine ddp, fp32, on CPU" in (ranks.folder / "shared/model/README.md").read_text()


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
