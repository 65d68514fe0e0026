"""transformers' Auto classes read our folders, in processes that have not imported this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from scal3r_train.inference.image_processing_scal3r import Scal3RImageProcessor
from scal3r_train.model.configuration_scal3r import AUTO_FILE, AUTO_MAP, PROCESSOR_FILE, Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.conftest import PROJECT_ROOT
from tests.model.tiny import tiny_config, tiny_model

TRUSTED = "trust_remote_code=True"
LOAD = """
import sys
from transformers import AutoConfig, AutoModel
config = AutoConfig.from_pretrained(sys.argv[1], {0})
model, loading = AutoModel.from_pretrained(sys.argv[1], output_loading_info=True, {0})
assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
print(type(config).__module__, type(model).__module__)
model.save_pretrained(sys.argv[1] + "/again")
"""
LOAD_PROCESSOR = """
from transformers import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained(sys.argv[1], {0})
print(type(processor).__module__)
processor.save_pretrained(sys.argv[1] + "/again")
"""
OURS = f"{Scal3RConfig.__module__} {Scal3RModel.__module__}"
# Some versions of transformers have this Auto class with torchvision only.
HAS_AUTO_PROCESSOR = Scal3RConfig in IMAGE_PROCESSOR_MAPPING
LOAD += LOAD_PROCESSOR if HAS_AUTO_PROCESSOR else ""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(
    code: str, folder: Path, modules: Path, *, has_package: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run Python code in another folder; what Auto classes copy goes to `modules`."""
    hidden = "" if has_package else "import sys; sys.modules['scal3r_train'] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hidden + code, str(folder)],
        cwd=folder,
        env={**os.environ, "HF_MODULES_CACHE": str(modules), "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
    )


def test_with_trust_in_a_process_that_has_not_imported_us(saved: Path, tmp_path: Path) -> None:
    done = run(LOAD.format(TRUSTED), saved, tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    assert OURS in done.stdout.splitlines()
    assert not HAS_AUTO_PROCESSOR or Scal3RImageProcessor.__module__ in done.stdout.splitlines()
    # What is saved then is the same folder, not copies of our source.
    assert {path.name for path in (saved / "again").iterdir()} == {path.name for path in saved.iterdir()} - {
        "again"
    }
    assert (saved / "again" / "config.json").read_text() == (saved / "config.json").read_text()
    ours, again = (Scal3RImageProcessor.from_pretrained(folder) for folder in (saved, saved / "again"))
    assert ours.to_dict() == again.to_dict()


def test_without_trust_once_a_name_was_imported(saved: Path, tmp_path: Path) -> None:
    names = "from scal3r_train import Scal3RImageProcessor, Scal3RModel\n"
    done = run(names + LOAD.format(""), saved, tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    assert OURS in done.stdout.splitlines()
    assert not HAS_AUTO_PROCESSOR or Scal3RImageProcessor.__module__ in done.stdout.splitlines()
    assert not list((tmp_path / "modules").rglob(AUTO_FILE.name))


def test_the_shipped_checkpoint_is_such_a_folder(project_root: Path, tmp_path: Path) -> None:
    folder = project_root / "assets" / "scal3r-tiny"
    assert (folder / AUTO_FILE.name).read_bytes() == AUTO_FILE.read_bytes()
    assert Scal3RConfig.from_pretrained(folder).auto_map == AUTO_MAP
    processor = Scal3RImageProcessor.from_pretrained(folder)
    assert (folder / PROCESSOR_FILE).read_text() == json.dumps(
        {key: value for key, value in processor.to_dict().items() if key != "image_side"},
        indent=2,
        sort_keys=True,
    ) + "\n"
    images = processor(torch.zeros(9, 3, 48, 72))[
        "pixel_values"
    ]  # the size and chunks that it was trained with
    assert [tuple(chunk.shape) for chunk in images[0]] == [(8, 3, 48, 72), (5, 3, 48, 72)]


def test_without_the_package_one_line_says_to_install_it(saved: Path, tmp_path: Path) -> None:
    done = run(LOAD.format(TRUSTED), saved, tmp_path / "modules", has_package=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: this model needs the package scal3r_train: install")


def test_the_configuration_alone_is_such_a_folder(tmp_path: Path) -> None:
    tiny_config().save_pretrained(tmp_path)
    code = f"print(type(AutoConfig.from_pretrained(sys.argv[1], {TRUSTED})))"
    done = run(f"import sys\nfrom transformers import AutoConfig\n{code}", tmp_path, tmp_path / "modules")
    assert "Scal3RConfig" in done.stdout, done.stderr
