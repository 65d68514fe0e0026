"""What is written for others has the permissions of any new file: safetensors writes for the owner alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scal3r_data_tools import index, pack
from scal3r_train.config import load_config
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.export.export_scene import main as export_scene
from tests.training import tiny

RECONSTRUCTION = [
    "schedule.chunk_size=4",
    "schedule.overlap=2",
    "input.resize.size=42",
    "export.save_depth=true",
]


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_all_that_is_published(umask: int, towns: Path, tmp_path: Path) -> None:
    run, scene = tmp_path / "run", tmp_path / "scene"
    tiny.train(
        tiny.recipe(towns, run, {"optim.num_steps": 1, "optim.warmup_steps": 0, "validation.num_windows": 1})
    )
    model = Scal3RModel.from_pretrained(run / "model").eval()
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    reconstruct(
        towns.parent / "town_001_00000" / "rgb",
        model,
        load_config(ReconstructionRecipe, None, RECONSTRUCTION),
        scene,
    )
    export_scene(scene, tmp_path / "cloud.ply", "ply", {})
    index.main("towns", towns.parent, tmp_path / "index.parquet")
    pack.main(tmp_path / "index.parquet", tmp_path / "pack")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    assert {
        ".safetensors",
        ".json",
        ".yaml",
        ".md",
        ".jsonl",
        ".parquet",
        ".ply",
        ".tum",
        ".html",
    } <= suffixes
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {oct(0o666 & ~umask)}
    folders = {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == {oct(0o777 & ~umask)}


def test_no_weights_are_written_without(project_root: Path) -> None:
    """Where safetensors are written, permissions are set in the same file, or by `atomic_output`."""
    writers = re.compile(r"\b(save_file|save_torch_state_dict|save_model)\(")
    places = []
    for folder in ("scal3r_train", "eval", "data_tools"):
        for path in (project_root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if writers.search(text):
                places.append(path.name)
                assert re.search(r"\b(permit_as_new|atomic_output)\(", text), path
            assert not re.search(r"\b(mkstemp|NamedTemporaryFile)\(", text), path
    assert {"host_copy.py", "export.py", "tensor_file.py", "frame_cache.py"} <= set(places)
