"""The model card: a head that the hub reads, and a text that says what is known and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from scal3r_train.data.index.index import DatasetSummary
from scal3r_train.model.hub_card import (
    FOLDER,
    CardFacts,
    TrainingFacts,
    ValidationFacts,
    at_home,
    model_card,
)
from scal3r_train.model.hub_files import name_of_weights

VALIDATION = ValidationFacts(
    data=["kitti | raw"],
    num_sequences=7,
    num_trained_on=0,
    step=900,
    first={"val/auc_5": 0.25},
    last={"val/auc_5": 0.75, "val/abs_rel": 0.0625},
)
TRAINING = TrainingFacts(
    data=[DatasetSummary("kitti | raw", "CC BY-NC-SA 3.0", "https://example.org", 61, 12_000, 1.5, False)],
    hub_data=["owner/towns"],
    deny_list="not applied",
    resolutions=[(392, 518), (294, 518)],
    chunk_sizes=[60],
    step=1000,
    num_steps=1000,
    computed_by="32 processes, engine fsdp2, bf16, on NVIDIA H100",
    validation=VALIDATION,
)
FACTS = CardFacts(
    name="street: #1",
    licence="cc-by-nc-4.0",
    num_parameters=1_270_000_000,
    started_from="vggt",
    base_model="facebook/VGGT-1B",
    code_version="1.2.3",
    recipe_file="recipe.yaml",
    checkpoint_sha256="abc123",
    training=TRAINING,
)


def training(**changes: Any) -> CardFacts:
    return replace(FACTS, training=replace(TRAINING, **changes))


def test_the_head_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(FACTS)).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "cc-by-nc-4.0",
        "transformers",
        "image-to-3d",
    )
    assert {"scal3r", "3d-reconstruction", "arxiv:2604.08542"} <= set(data.tags)
    assert data.datasets == ["owner/towns", "kitti-raw"]
    assert data.base_model == "facebook/VGGT-1B"
    assert data.model_name == "street: #1"
    results = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "auc_5": 0.75,
        "abs_rel": 0.0625,
    }
    assert results["auc_5"].task_type == "image-to-3d"
    assert results["auc_5"].dataset_name == "kitti | raw (held-out sequences)"


@pytest.mark.parametrize("licence", ["other", "mit: #1\n---\n", '"', "null"])
def test_a_licence_stays_one_value(licence: str) -> None:
    data = ModelCard(model_card(replace(FACTS, licence=licence))).data
    assert data.license == licence
    assert ("license_name" in data.to_dict()) == (licence == "other")


def test_the_text_holds_every_fact() -> None:
    text = ModelCard(model_card(FACTS)).text
    for part in (
        "# street: #1",
        "1270.00 M parameters",
        "went on from `facebook/VGGT-1B`",
        "| kitti \\| raw | CC BY-NC-SA 3.0 | 61 | 12,000 | 1.50 | https://example.org |",
        "kept out of the training: not applied",
        "1,000 of 1,000",
        "32 processes, engine fsdp2, bf16, on NVIDIA H100",
        "[recipe.yaml](recipe.yaml)",
        "scal3r_train 1.2.3",
        "`abc123`",
        "On held-out windows: of 7 sequences of kitti \\| raw, none of which this run trained on. The weights that it "
        "went on from may have seen them.",
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
    facts = training(data=[rendered], step=7, validation=None, deny_list="applied (v2)")
    text = model_card(replace(facts, started_from=None))
    for part in (
        "trained from scratch",
        "| towns | not stated in the index | 1 | 2 | 0.00 | not stated in the index |",
        "All training data are rendered",
        "was to make",
        "did not validate",
        "kept out of the training: applied (v2)",
    ):
        assert part in text, part
    assert ModelCard(text).data.eval_results is None
    text = model_card(replace(facts, started_from=None, encoder_of="vggt"))
    assert "trained from scratch, but for its patch encoder, which began as that of `vggt`" in text


def test_a_validation_is_not_said_to_be_of_averaged_weights() -> None:
    facts = training(validation=VALIDATION)
    assert ModelCard(model_card(facts)).data.eval_results
    card = ModelCard(model_card(replace(facts, is_average=True)))
    assert "of the run's own weights, not of their moving average" in card.content
    assert not card.data.eval_results


def test_windows_that_were_trained_on_are_not_called_held_out() -> None:
    card = ModelCard(model_card(training(validation=replace(VALIDATION, num_trained_on=3))))
    assert "held-out" not in card.content
    assert (
        "7 sequences of kitti \\| raw, 3 of which the run also trained on: this is how well it learned them"
        in card.text
    )
    assert card.data.eval_results[0].dataset_name.endswith("(sequences that it also trained on)")


def test_weights_of_which_nothing_is_known() -> None:
    text = model_card(CardFacts("x", "other", 5_000_000, "abc"), "me/x")
    assert "not recorded with these weights" in text and "from scratch" not in text
    for title in ("## Training", "## Validation", "Trained on images"):
        assert title not in text
    assert 'from_pretrained("me/x")' in text
    assert "\nhf download me/x --local-dir x && scal3r reconstruct VIDEO OUT model.checkpoint=x\n" in text
    assert FOLDER not in text


def test_a_model_that_measures_motion_is_reconstructed_at_its_size_by_its_recipe() -> None:
    card = model_card(replace(FACTS, motion_hw=(84, 144)))
    own = "scal3r reconstruct VIDEO OUT small input.image_hw=[84,144] model.checkpoint="
    assert f"\n{own}{FOLDER}\n" in card and "give `fov=RADIANS`" in card
    assert f"\nhf download me/x --local-dir x && {own}x\n" in at_home(card, "me/x")
    assert "RADIANS" not in model_card(FACTS)


@pytest.mark.parametrize("name", ["model", "model_ema", "model_best"])
def test_what_a_training_leaves_has_the_name_of_its_run(name: str, tmp_path: Path) -> None:
    assert name_of_weights(tmp_path / "kitti" / name) == "kitti"
    assert name_of_weights(tmp_path / "kitti") == "kitti"
