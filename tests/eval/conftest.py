"""An evaluation recipe over tiny towns and a tiny model of random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scal3r_eval import predict_sequence, score_sequence
from scal3r_train.data.sequence import SequenceRecord
from tests.inference.conftest import make_tiny_model

WriteRecipe = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture
def write_recipe(tmp_path: Path, towns: Path, checkpoint: Path) -> WriteRecipe:
    """Write a recipe of two towns into tmp_path and return its path; sections given replace the defaults' keys."""

    def write(**sections: Any) -> Path:
        recipe: dict[str, Any] = {
            "task": "eval",
            "output_dir": str(tmp_path / "out"),
            "checkpoint": str(checkpoint),
            "benchmark": {"name": "towns", "index": str(towns)},
            "sequences": {"names": ["town_001_00000", "town_001_00001"], "max_frames": 14},
            "protocol": {"image_hw": [28, 42], "chunk_size": 8, "overlap": 4},
            "methods": {
                "scal3r": {"kind": "scal3r", "overrides": ["loop_closure.enabled=false"]},
                "straight_line": {"kind": "baseline", "baseline": "straight_line"},
            },
        }
        for name, value in sections.items():
            if isinstance(value, dict) and name not in ("methods",):
                recipe[name] = {**recipe[name], **value}
            else:
                recipe[name] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe))  # which is YAML too, and keeps the order of the methods
        return path

    return write


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is computed: names of reconstructed and of scored sequences, as they come."""
    made: list[str] = []
    reconstruct, scored = predict_sequence.reconstruct, score_sequence._scored

    def counted(record: SequenceRecord, *arguments: Any) -> Any:
        made.append(f"predict {record.sequence_id}")
        return reconstruct(record, *arguments)

    def counted_scoring(run: Any, sequence: Any, *arguments: Any) -> Any:
        made.append(f"score {run.method} {sequence.name}")
        return scored(run, sequence, *arguments)

    monkeypatch.setattr(predict_sequence, "reconstruct", counted)
    monkeypatch.setattr(score_sequence, "_scored", counted_scoring)
    return made
