"""A checkpoint is loaded whole or refused with one line."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scal3r_train.config import UserError
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.load_model import (
    LoadedModelSettings,
    checkpoint_sha256,
    load_model,
    load_model_as_set,
)
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


@pytest.fixture
def sharded(tiny_model: Scal3RModel, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    return tmp_path / "sharded"


def test_shards_are_the_same_model(sharded: Path, tiny_model: Scal3RModel) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    loaded, expected = load_model(sharded, CPU).state_dict(), tiny_model.state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_the_hash_covers_every_shard_and_which_holds_what(sharded: Path) -> None:
    hashes = {checkpoint_sha256(sharded)}
    for path in sorted(sharded.glob("model*")):
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        hashes.add(checkpoint_sha256(sharded))
        path.write_bytes(content)
    assert len(hashes) == 1 + len(list(sharded.glob("model*")))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks {shard.name}, one of") as caught:
        load_model(sharded, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": []}'])
def test_a_damaged_shard_index_is_refused(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        load_model(sharded, CPU)


def test_memories_can_be_left_out_or_kept_to_each_chunk(checkpoint: Path, tiny_model: Scal3RModel) -> None:
    """As networks that are built that way and given the same weights."""
    images = torch.rand(1, 2, 3, 3, 28, 42)
    found = {}
    for memory, change in (("chunk", {"memory_scope": "chunk"}), ("off", {"memory_layers": []})):
        config = Scal3RConfig(**{**tiny_model.config.to_dict(), **change})
        expected = Scal3RModel(config).eval()
        expected.load_state_dict(tiny_model.state_dict(), strict=memory != "off")
        loaded = load_model(checkpoint, CPU, memory)
        with torch.no_grad():
            found[memory] = loaded(images).depth
            torch.testing.assert_close(found[memory], expected(images).depth, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        found["as trained"] = load_model(checkpoint, CPU)(images).depth
        assert torch.equal(load_model(checkpoint, CPU, "sequence")(images).depth, found["as trained"])
    values = list(found.values())
    assert all((values[a] - values[b]).abs().max() > 1e-4 for a in range(3) for b in range(a))


def test_without_memories_other_foreign_tensors_are_still_refused(damaged: Path) -> None:
    tensors = load_file(damaged / "model.safetensors")
    tensors["stranger"] = torch.zeros(1)
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 unexpected tensors, such as stranger"):
        load_model(damaged, CPU, "off")


def test_the_memories_can_be_orthogonalised_in_the_release_s_dtype(checkpoint: Path) -> None:
    """As networks that are built that way; without a word, as config.json says."""
    for asked, expected in ((None, "working"), ("working", "working"), ("bfloat16", "bfloat16")):
        loaded = load_model_as_set(LoadedModelSettings(checkpoint=checkpoint, newton_schulz_dtype=asked), CPU)
        units = loaded.aggregator.memory_units.values()
        assert {unit.newton_schulz_dtype for unit in units} == {expected}
        assert loaded.config.newton_schulz_dtype == expected
