"""Released checkpoints under our names: tables at full size, conversions at tiny size, refusals of everything else."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel

from scal3r_train.config import UserError
from scal3r_train.model import convert_checkpoint
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import (
    build_on_meta,
    checkpoint_kind,
    convert,
    official_key_from_ours,
    our_key_from_official,
    our_key_from_vggt,
    read_tensors,
    translate,
)
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.model.tiny import FIELDS, random_images, tiny_config, tiny_model

PART_SIZES = {  # docs/numerics.md#released-checkpoints
    "aggregator.patch_embed": 304_372_736,
    "aggregator.frame_blocks": 302_364_672,
    "aggregator.global_blocks": 302_364_672,
    "aggregator.memory_units": 75_546_636,
    "aggregator tokens": 10_240,
    "camera_head": 216_174_610,
    "point_head": 32_654_628,
    "depth_head": 32_654_562,
}


@pytest.fixture(scope="module")
def full_size() -> Scal3RModel:
    """The released configuration without storage."""
    return build_on_meta(Scal3RConfig())


def part_of(name: str) -> str:
    if name in ("aggregator.camera_token", "aggregator.register_token"):
        return "aggregator tokens"
    first, second = name.split(".")[:2]
    return f"{first}.{second}" if first == "aggregator" else first


def test_the_full_size_model_has_the_released_number_of_parameters(full_size):
    parameters = dict(full_size.named_parameters())
    assert all(parameter.device.type == "meta" for parameter in parameters.values())
    assert full_size.state_dict().keys() == parameters.keys(), "no buffers in the state dict"
    sizes: Counter[str] = Counter()
    for name, parameter in parameters.items():
        sizes[part_of(name)] += parameter.numel()
    assert dict(sizes) == PART_SIZES
    assert sum(sizes.values()) == 1_266_142_756


def test_official_keys_map_one_to_one_both_ways(full_size, shared_dir):
    table = json.loads((shared_dir / "goldens/state_dict_full.json").read_text())
    ours = {name: list(value.shape) for name, value in full_size.state_dict().items()}
    assert len(table["keys"]) == table["n_keys"] == len(ours) == 1451
    assert {our_key_from_official(key): shape for key, shape in table["keys"].items()} == ours
    assert {official_key_from_ours(name): shape for name, shape in ours.items()} == table["keys"]


def test_vggt_keys_map_one_to_one_onto_all_but_the_memories(full_size, shared_dir):
    table = json.loads((shared_dir / "goldens/vggt_key_map.json").read_text())
    assert len(table["pairs"]) == 1403
    for vggt, official in table["pairs"].items():
        assert our_key_from_vggt(vggt) == our_key_from_official(official)
    mapped = {our_key_from_vggt(vggt) for vggt in table["pairs"]}
    without_source = full_size.state_dict().keys() - mapped
    assert {official_key_from_ours(name) for name in without_source} == set(table["not_in_vggt"])
    assert all(".memory_units." in name for name in without_source)
    tracks = [f"track_head.layer{index}.weight" for index in range(table["n_dropped"])]
    assert len(tracks) == 394
    assert not any(our_key_from_vggt(key) for key in tracks)


@pytest.mark.parametrize("key", ["agg_regator", "backbone.weight", "aggregator.memory_units.1.w0"])
def test_unknown_keys_are_refused_by_every_table(key):
    with pytest.raises(KeyError):
        our_key_from_official(key)
    with pytest.raises(KeyError):
        our_key_from_vggt(key)
    if "memory_units" not in key:
        with pytest.raises(KeyError):
            official_key_from_ours(key)


def official_state(model: Scal3RModel) -> dict[str, Tensor]:
    return {official_key_from_ours(name): value.contiguous() for name, value in model.state_dict().items()}


def vggt_state(model: Scal3RModel) -> dict[str, Tensor]:
    """Return the backbone and heads under VGGT's names, beside a track head."""
    backbone = {k: v for k, v in model.state_dict().items() if not k.startswith("aggregator.memory_units.")}
    return {**backbone, "track_head.tracker.weight": torch.ones(3), "track_head.tracker.bias": torch.ones(1)}


def write(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.stem != "legacy")
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "legacy.pt"])
def test_an_official_checkpoint_converts_exactly(tmp_path, name):
    model = tiny_model(torch.float32, patch_encoder="dinov2")
    converted = convert(write(official_state(model), tmp_path / name), model.config)
    assert converted.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[key], value), key
    assert official_state(converted).keys() == official_state(model).keys()
    assert not any(parameter.is_meta for parameter in converted.parameters())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_vggt_checkpoint_starts_with_a_neutral_memory(tmp_path, suffix):
    """Gate zero: bit for bit the backbone without memories, whose chunks are independent. Gate 0.1 is not."""
    model = tiny_model(torch.float32, patch_encoder="dinov2")
    config = tiny_config(patch_encoder="dinov2")
    path = write(vggt_state(model), tmp_path / f"vggt{suffix}")
    torch.manual_seed(0)
    converted = convert(path, config)
    assert config.memory_gate_init == 0.1, "the caller's configuration is left alone"
    assert converted.config.memory_gate_init == 0.0
    for key, value in vggt_state(model).items():
        assert key.startswith("track_head.") or torch.equal(converted.state_dict()[key], value), key
    for unit in converted.aggregator.memory_units.values():
        assert unit.w0.std() > 0.1
        assert not unit.proj.bias.any()
    backbone = tiny_model(torch.float32, patch_encoder="dinov2", memory_layers=[])
    backbone.load_state_dict({k: v for k, v in vggt_state(model).items() if not k.startswith("track_head.")})
    images = random_images(1, 2, 3, dtype=torch.float32)
    found, expected = converted(images), backbone(images)
    assert all(torch.equal(found[name], expected[name]) for name in FIELDS)
    with torch.no_grad():
        for unit in converted.aggregator.memory_units.values():
            unit.proj.bias[-16:] = 0.1
    assert not torch.allclose(converted(images).depth, expected.depth, rtol=1e-4)


def test_a_neutral_memory_still_learns(tmp_path):
    """The gate's own gradient is not zero at zero."""
    model = tiny_model(torch.float32)
    converted = convert(write(vggt_state(model), tmp_path / "vggt.safetensors"), tiny_config()).train()
    converted(random_images(1, 2, 3, dtype=torch.float32)).depth.sum().backward()
    for unit in converted.aggregator.memory_units.values():
        assert unit.proj.bias.grad[-16:].abs().max() > 0


@pytest.mark.parametrize("kind", ["official", "vggt"])
def test_missing_surplus_and_misshaped_tensors_are_named(tmp_path, kind):
    model = tiny_model(torch.float32)
    state = official_state(model) if kind == "official" else vggt_state(model)
    prefix, head = ("agg_regator.", "cam_decoder.") if kind == "official" else ("aggregator.", "camera_head.")
    norm = f"{head}token_norm.weight"
    cases = {
        "lacks 'camera_head.token_norm.weight'": {k: v for k, v in state.items() if k != norm},
        "has a surplus 'camera_head.extra'": {**state, f"{head}extra": torch.ones(1)},
        "has a wrong shape for 'camera_head.token_norm.weight'": {**state, norm: torch.ones(3)},
        "has an unknown tensor 'optimizer.step'": {**state, "optimizer.step": torch.ones(1)},
        "has a wrong shape for 'aggregator.camera_token'": {**state, f"{prefix}camera_token": torch.ones(2)},
    }
    for index, (message, broken) in enumerate(cases.items()):
        with pytest.raises(UserError, match=message) as caught:
            convert(write(broken, tmp_path / f"{index}.safetensors"), model.config)
        assert "\n" not in str(caught.value)


def test_an_official_checkpoint_may_not_lack_memories(tmp_path):
    model = tiny_model(torch.float32)
    state = {key: value for key, value in official_state(model).items() if ".ttt." not in key}
    with pytest.raises(UserError, match=r"lacks 'aggregator.memory_units.1.w0' \(24 such tensors\)"):
        convert(write(state, tmp_path / "a.pt"), model.config)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"bert.embeddings.weight": torch.ones(1)}, "neither official Scal3R nor VGGT"),
        ({}, "no tensor at all"),
    ],
)
def test_other_models_are_refused(state, message):
    with pytest.raises(UserError, match=message):
        checkpoint_kind(state)


def test_a_foreign_key_names_the_release_it_is_missing_from():
    with pytest.raises(UserError, match="unknown tensor 'x'; expected a vggt checkpoint"):
        translate({"x": torch.ones(1)}, "vggt")


class RunsCode:
    """A pickle that would create a file when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def bad_files(folder: Path) -> dict[str, Path]:
    """Return files that are no plain dict of tensors, by what is wrong with them."""
    tensors = {"agg_regator.camera_token": torch.ones(1, 2, 1, 16)}
    contents = {
        "code": RunsCode(folder / "was executed"),
        "code in a dict": {**tensors, "x": RunsCode(folder / "was executed")},
        "module": torch.nn.Linear(2, 2),
        "list": [torch.ones(1)],
        "nested": {"model": tensors, "step": 3},
        "tensor": torch.ones(3),
    }
    files = {name: folder / f"{name}.pt" for name in contents}
    for name, content in contents.items():
        torch.save(content, files[name])
    files["code, legacy format"] = folder / "legacy.pt"
    torch.save(contents["code"], files["code, legacy format"], _use_new_zipfile_serialization=False)
    good = write(tensors, folder / "good.pt").read_bytes()
    same = write(tensors, folder / "good.safetensors").read_bytes()
    raw = {
        "empty.pt": b"",
        "text.pt": b"hello world\n",
        "random.pt": bytes(range(256)) * 8,
        "zeros.pt": bytes(1000),
        "dot.pt": b".",
        "truncated.pt": good[: len(good) // 2],
        "empty.safetensors": b"",
        "truncated.safetensors": same[: len(same) - 8],
        "text.safetensors": b"hello world, hello world",
        "pickle.safetensors": good,
    }
    for name, data in raw.items():
        files[name] = folder / name
        files[name].write_bytes(data)
    files["missing"] = folder / "missing.pt"
    files["folder"] = folder
    return files


def test_everything_but_plain_tensors_is_refused_in_one_line(tmp_path):
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            read_tensors(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name
    assert not (tmp_path / "was executed").exists()


def test_the_command_refuses_a_pickle_with_code(tmp_path, forks):
    path = tmp_path / "code.pt"
    torch.save({"a": RunsCode(tmp_path / "was executed")}, path)
    done = forks.run("-m", "scal3r_train.cli", "convert", path, tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("scal3r: error: checkpoint ")
    assert done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["code.pt"]


@pytest.fixture
def tiny_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the released configuration be a tiny one."""
    monkeypatch.setattr(convert_checkpoint, "Scal3RConfig", tiny_config)


@pytest.mark.usefixtures("tiny_release")
def test_the_command_writes_a_folder_for_from_pretrained(tmp_path):
    model = tiny_model(torch.float32)
    path = write(official_state(model), tmp_path / "scal3r.pt")
    assert convert_checkpoint.main(path, tmp_path / "new" / "out") == 0
    loaded = AutoModel.from_pretrained(tmp_path / "new" / "out")
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["out"]
    with pytest.raises(UserError, match="out exists; choose another folder"):
        convert_checkpoint.main(path, tmp_path / "new" / "out")


@pytest.mark.usefixtures("tiny_release")
def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(self: Scal3RModel, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    path = write(official_state(tiny_model(torch.float32)), tmp_path / "scal3r.pt")
    monkeypatch.setattr(Scal3RModel, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        convert_checkpoint.main(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["scal3r.pt"]
