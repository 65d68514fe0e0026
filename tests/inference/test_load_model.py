"""A checkpoint is loaded whole or refused with one line."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scal3r_train.config import UserError
from scal3r_train.inference.load_model import checkpoint_sha256, load_model
from scal3r_train.model.modeling_scal3r import Scal3RModel

CPU = torch.device("cpu")


@pytest.fixture
def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def test_it_is_the_saved_model(checkpoint: Path, tiny_model: Scal3RModel) -> None:
    model = load_model(checkpoint, CPU)
    assert not model.training
    expected = tiny_model.state_dict()
    loaded = model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_missing_tensor_is_not_made_up(damaged: Path) -> None:
    tensors = load_file(damaged / "model.safetensors")
    name = next(iter(tensors))
    del tensors[name]
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"1 missing tensors, such as {name}"):
        load_model(damaged, CPU)


def test_a_pickle_is_not_read(damaged: Path) -> None:
    (damaged / "model.safetensors").unlink()
    torch.save({}, damaged / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no \.safetensors file; pickles are not read"):
        load_model(damaged, CPU)


def test_a_cut_file_is_refused(damaged: Path) -> None:
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_model(damaged, CPU)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_model(tmp_path, CPU)
    with pytest.raises(UserError, match="scal3r convert"):
        load_model(checkpoint / "model.safetensors", CPU)


def test_the_hash_tells_checkpoints_apart(checkpoint: Path, damaged: Path) -> None:
    assert checkpoint_sha256(damaged) == checkpoint_sha256(checkpoint)
    (damaged / "config.json").write_text((damaged / "config.json").read_text() + "\n")
    assert checkpoint_sha256(damaged) != checkpoint_sha256(checkpoint)
