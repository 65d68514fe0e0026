"""Adapters on a frozen checkpoint: what is trained, what is saved, how a run goes on, and the merged model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scal3r_train import cli
from scal3r_train.config import UserError, validate_mapping
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.load_model import load_model
from scal3r_train.model.lora import LoraSettings, add_adapters, base_name, is_adapter
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.train import build_model
from scal3r_train.training.checkpointing import checkpoint
from scal3r_train.training.recipe import TrainedModelSettings
from tests.training import tiny
from tests.training.test_resume import assert_equal_states, newest

pytest.importorskip("peft")
MEMORIES = "aggregator.memory_units."
NETWORK = tiny.NETWORK | {"patch_encoder": "dinov2", "encoder_layers": 1, "encoder_heads": 2}
IMAGES = torch.rand(1, 2, 3, 3, 28, 42, generator=torch.Generator().manual_seed(0))
OneProcess = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, its memories open: with a gate of 0.1 an error in a block hardly shows."""
    folder = tmp_path_factory.mktemp("lora") / "base"
    torch.manual_seed(0)
    Scal3RModel(Scal3RConfig(**NETWORK, memory_gate_init=0.5)).save_pretrained(folder)
    return folder


def changes_for(base: Path, **more: Any) -> dict[str, Any]:
    """How a run that trains adapters differs from the tiny one."""
    model = {"checkpoint": str(base), "train": "memories", "lora": {"rank": 4, "alpha": 8}}
    return {"model": model, "optim.warmup_steps": 0, "optim.ema_decay": 0.9, "validation.every": 0} | more


@pytest.fixture(scope="module")
def run(one_process: OneProcess, base: Path) -> Path:
    """Five steps on one process."""
    return one_process(changes_for(base))


def adapted(base: Path, **lora: Any) -> Scal3RModel:
    """The model at the start of a run, on this process."""
    settings = {"checkpoint": str(base), "train": "memories", "lora": {"rank": 4} | lora}
    torch.manual_seed(1)
    return tiny.loaded(validate_mapping(TrainedModelSettings, settings, "test"))


def test_the_start_is_the_base_bit_for_bit(base: Path) -> None:
    settings = {"checkpoint": str(base), "train": "memories"}
    # Read the same way: weights at other addresses are multiplied by other kernels.
    model, plain = adapted(base), tiny.loaded(validate_mapping(TrainedModelSettings, settings, "test"))
    with torch.no_grad():
        output, expected = model.eval()(IMAGES), plain.eval()(IMAGES)
    assert output.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(output[name], value), name
    values = dict(model.named_parameters())
    assert all(not value.any() for name, value in values.items() if ".lora_B." in name)
    firsts = [value for name, value in values.items() if ".lora_A." in name]
    for value in firsts:
        bound = value.shape[1] ** -0.5
        assert 0.5 * bound < value.abs().max() <= bound and 0.3 * bound < value.std() < 0.9 * bound
    assert len({value.sum().item() for value in firsts}) == len(firsts), "every adapter starts elsewhere"


@pytest.mark.parametrize(
    ("lora", "layers"),
    [
        ({}, {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}),
        ({"targets": ["attention"], "encoder": False}, {"attn.qkv", "attn.proj"}),
        ({"targets": ["mlp"]}, {"mlp.fc1", "mlp.fc2"}),
    ],
)
def test_adapters_and_memories_get_gradients_and_nothing_else(
    base: Path, lora: dict[str, Any], layers: set[str]
) -> None:
    model = adapted(base, **lora)
    names = dict(model.named_parameters())
    trained = {name for name, value in names.items() if value.requires_grad}
    assert trained == {name for name in names if is_adapter(name) or name.startswith(MEMORIES)}
    blocks = ["frame_blocks.0", "frame_blocks.1", "global_blocks.0", "global_blocks.1"]
    blocks += ["patch_embed.blocks.0"] if lora.get("encoder", True) else []
    expected = {
        f"aggregator.{block}.{layer}.lora_{part}.default.weight"
        for block in blocks
        for layer in layers
        for part in "AB"
    }
    assert {name for name in names if is_adapter(name)} == expected
    assert all(names[name].dtype == torch.float32 for name in expected)
    output = model(IMAGES)
    (output.pose_encoding_stages.sum() + output.depth.sum() + output.depth_conf.sum()).backward()
    assert {name for name, value in names.items() if value.grad is not None} == trained
    assert any(names[name].grad.any() for name in expected if ".lora_B." in name)


def test_frozen_matrices_wait_in_bf16_and_adapters_in_fp32(base: Path) -> None:
    settings = {"checkpoint": str(base), "train": "memories", "frozen_dtype": "bf16", "lora": {}}
    model = tiny.loaded(validate_mapping(TrainedModelSettings, settings, "test"))
    dtypes = {name: value.dtype for name, value in model.named_parameters()}
    assert dtypes["aggregator.global_blocks.0.attn.qkv.base_layer.weight"] == torch.bfloat16
    assert {dtypes[name] for name in dtypes if is_adapter(name)} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        model(IMAGES).depth.sum().backward()
    grads = [value.grad for name, value in model.named_parameters() if is_adapter(name)]
    assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)


def test_a_checkpoint_holds_adapters_and_memories_alone(run: Path, base: Path) -> None:
    state = tiny.saved_state(newest(run))
    kept = {key.removeprefix("weight/") for key in state if key.startswith("weight/")}
    assert all(is_adapter(name) or name.startswith(MEMORIES) for name in kept)
    assert any(is_adapter(name) for name in kept) and any(name.startswith(MEMORIES) for name in kept)
    assert not (newest(run) / "model").exists()
    for kind, folder in (("weight", "adapters"), ("ema", "adapters_ema")):
        stored = load_file(newest(run) / folder / "adapter_model.safetensors")
        assert len(stored) == len(kept)
        for name in kept:
            key = "base_model.model." + name.replace(".default.", ".")
            assert torch.equal(stored[key].flatten(), state[f"{kind}/{name}"])
    assert all(float(state[f"weight/{name}"].abs().sum()) > 0 for name in kept if ".lora_B." in name)
    config = json.loads((run / "adapters" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, str(base))
    assert (run / "adapters" / "README.md").is_file() and (run / "model_ema" / "README.md").is_file()


def unmerged(run: Path, base: Path) -> Scal3RModel:
    """The trained model with its adapters beside the base's matrices."""
    model = load_model(base, torch.device("cpu"))
    add_adapters(model, LoraSettings(rank=4, alpha=8))
    state = tiny.saved_state(newest(run))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f"weight/{name}" in state:
                parameter.view(-1).copy_(state[f"weight/{name}"])
    return model.eval()


def test_merged_and_unmerged_outputs_agree(run: Path, base: Path) -> None:
    """The file rounds W + s B A to float32, 6e-8 of a value: all that is left in float64, and what comes out is less.

    In float32 the two add in another order besides, and a memory's update amplifies what is rounded
    (docs/numerics.md#conditioning): 1e-5 leaves room for that. Training moved the outputs further in five steps.
    """
    model, merged = unmerged(run, base), load_model(run / "model", torch.device("cpu"))
    plain = load_model(base, torch.device("cpu"))
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-5)):
        with torch.no_grad():
            one, other, before = (each.to(dtype)(IMAGES.to(dtype)) for each in (model, merged, plain))
        for name in ("pose_encoding", "depth", "depth_conf"):
            scale = float(other[name].abs().max())
            apart = float((one[name] - other[name]).abs().max()) / scale
            moved = float((before[name] - other[name]).abs().max()) / scale
            print(f"{dtype} {name}: merged - unmerged {apart:.1e}, trained - base {moved:.1e}")
            assert apart < tolerance and moved > 10 * tolerance


def test_the_merged_model_is_plain(run: Path, base: Path) -> None:
    merged, plain = load_file(run / "model" / "model.safetensors"), load_file(base / "model.safetensors")
    assert {name: value.shape for name, value in merged.items()} == {
        name: value.shape for name, value in plain.items()
    }
    changed = {name for name, value in merged.items() if not torch.equal(value, plain[name])}
    names = [name for name, _ in adapted(base).named_parameters()]
    allowed = {base_name(name) for name in names if name.endswith(".base_layer.weight")}
    assert {name for name in changed if not name.startswith(MEMORIES)} == allowed


def test_peft_loads_adapters_and_memories(run: Path, base: Path) -> None:
    from peft import AutoPeftModel, PeftModel

    expected = unmerged(run, base)
    models = [
        PeftModel.from_pretrained(load_model(base, torch.device("cpu")), run / "adapters"),
        AutoPeftModel.from_pretrained(run / "adapters", import_allowlist=["scal3r_train"]),
    ]
    with torch.no_grad():
        for model in models:
            torch.testing.assert_close(model.eval()(IMAGES).depth, expected(IMAGES).depth, rtol=0, atol=0)


def test_a_killed_run_resumes_bit_for_bit(run: Path, base: Path, towns: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(towns, tmp_path, changes_for(base))
    with tiny.killed_after(3):
        tiny.train(recipe)
    tiny.train(recipe)
    assert tiny.metrics(tmp_path) == tiny.metrics(run)
    assert_equal_states(tiny.saved_state(newest(tmp_path)), tiny.saved_state(newest(run)))
    assert_equal_states(tiny.weights(tmp_path), tiny.weights(run))


def test_dropout_resumes_bit_for_bit_and_drops_the_same_when_recomputed(
    run: Path, base: Path, towns: Path, tmp_path: Path
) -> None:
    dropping = changes_for(base) | {"model.lora.dropout": 0.5, "optim.num_steps": 4, "checkpoint.every": 1}
    whole, resumed = tmp_path / "whole", tiny.recipe(towns, tmp_path / "resumed", dropping)
    tiny.train(tiny.recipe(towns, whole, dropping | {"checkpoint.keep_last": 4}))
    with tiny.killed_after(2):
        tiny.train(resumed)
    with tiny.replaced("restore_random_state", lambda _: None, checkpoint):  # as on another number of ranks
        tiny.train(resumed)
    assert tiny.metrics(tmp_path / "resumed") == tiny.metrics(whole)
    assert_equal_states(tiny.weights(tmp_path / "resumed"), tiny.weights(whole))
    assert tiny.steps(whole)[0]["grad_norm"] != tiny.steps(run)[0]["grad_norm"]
    for mode in ("blocks", "segments"):
        changes = dropping | {"model.activation_checkpointing": mode, "optim.num_steps": 1}
        tiny.train(tiny.recipe(towns, tmp_path / mode, changes))
        first = tiny.saved_state(whole / "checkpoints" / "step_00000001")
        assert_equal_states(tiny.saved_state(newest(tmp_path / mode)), first)


def test_a_run_does_not_go_on_with_another_base(
    run: Path, base: Path, towns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    longer = {"optim.num_steps": 6}
    other = tmp_path / "other"
    torch.manual_seed(5)
    Scal3RModel(Scal3RConfig(**NETWORK)).save_pretrained(other)
    with pytest.raises(
        UserError, match="holds adapters of .*base with SHA-256 .* and model.checkpoint .*other has"
    ):
        tiny.train(tiny.recipe(towns, tmp_path / "run", changes_for(other) | longer))
    with pytest.raises(UserError, match="holds adapters and the recipe has no model.lora section"):
        tiny.train(tiny.recipe(towns, tmp_path / "run", changes_for(base) | longer | {"model.lora": None}))
    with pytest.raises(UserError, match=r"lora_A.default.weight is \[4, 16\] there and \[2, 16\] here"):
        tiny.train(tiny.recipe(towns, tmp_path / "run", changes_for(base) | longer | {"model.lora.rank": 2}))
    moved = shutil.copytree(
        base, tmp_path / "moved"
    )  # the same weights elsewhere; heads are trained from now on
    changes = changes_for(moved) | longer | {"model.train": "memories_and_heads"}
    tiny.train(tiny.recipe(towns, tmp_path / "run", changes))
    assert "were not trained before: their optimizer state starts at zero" in capfd.readouterr().err
    assert any(key.startswith("weight/depth_head.") for key in tiny.saved_state(newest(tmp_path / "run")))
    with pytest.raises(UserError, match="was trained and is frozen now; leave model.train as it was"):
        tiny.train(tiny.recipe(towns, tmp_path / "run", changes_for(moved) | {"optim.num_steps": 7}))


def test_adapters_are_merged_by_convert(
    run: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = shutil.copytree(run / "adapters", tmp_path / "adapters")
    assert cli.main(["convert", str(adapters), str(tmp_path / "merged")]) == 0
    assert_equal_states(load_file(tmp_path / "merged" / "model.safetensors"), tiny.weights(run))
    config = json.loads((adapters / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (adapters / "adapter_config.json").write_text(json.dumps(config))
    assert cli.main(["convert", str(adapters), str(tmp_path / "again")]) == 2
    assert "gone does not exist; check the path; --base FOLDER names it" in capsys.readouterr().err
    assert cli.main(["convert", str(adapters), str(tmp_path / "again"), "--base", str(base)]) == 0
    assert not (tmp_path / "again.partial").exists()
    other = tmp_path / "other"
    Scal3RModel(Scal3RConfig(**NETWORK)).save_pretrained(other)
    assert cli.main(["convert", str(adapters), str(tmp_path / "third"), "--base", str(other)]) == 2
    assert "belong to a base with SHA-256" in capsys.readouterr().err
    config["use_dora"] = True
    (adapters / "adapter_config.json").write_text(json.dumps(config))
    assert cli.main(["convert", str(adapters), str(tmp_path / "third"), "--base", str(base)]) == 2
    assert "has use_dora, which is not merged here" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds adapters alone; merge them with `scal3r convert"):
        load_model(adapters, torch.device("cpu"))


def test_damaged_adapters_are_refused(run: Path, base: Path, tmp_path: Path) -> None:
    from scal3r_train.model.merge_adapters import merge_adapters

    adapters = shutil.copytree(run / "adapters", tmp_path / "adapters")
    weights = adapters / "adapter_model.safetensors"
    save_file(load_file(weights) | {"base_model.model.depth_head.absent": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match="do not fit their base .* it has no depth_head.absent"):
        merge_adapters(adapters, tmp_path / "out", base)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read: .*; copy the folder again"):
        merge_adapters(adapters, tmp_path / "out", base)


def test_lora_needs_a_frozen_checkpoint() -> None:
    with pytest.raises(UserError, match="lora adapts a frozen backbone: set model.train to memories or"):
        validate_mapping(TrainedModelSettings, {"checkpoint": "x", "lora": {}}, "test")
    settings = {"network": tiny.NETWORK, "train": "memories", "lora": {}}  # may be planned
    with pytest.raises(UserError, match="give model.checkpoint instead of model.network"):
        build_model(validate_mapping(TrainedModelSettings, settings, "test"))


def test_without_peft_one_line_says_what_to_install(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"model.lora needs peft: pip install 'scal3r_train\[lora\]'"):
        adapted(base)
