"""What is trained moves, what is frozen keeps its bits, costs no activations, and may wait in bf16 at no loss."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file

from scal3r_train.config import UserError
from scal3r_train.model.load_model import load_model
from scal3r_train.train import build_model
from scal3r_train.training.freezing import choose_trained
from scal3r_train.training.recipe import TrainedModelSettings
from tests.training import rank_worker, tiny
from tests.training.conftest import Ranks

OneProcess = Callable[..., Path]
HEADS = ("camera_head.", "depth_head.")
MEMORIES = ("aggregator.memory_units.",)
# The first memory is late, so that blocks lie before it; steps are few and their rate is high from the start.
BASE: dict[str, Any] = {
    "model.network": tiny.NETWORK | {"num_layers": 3, "tap_layers": [0, 1, 1, 2], "memory_layers": [1, 2]},
    "optim.warmup_steps": 0,
    "optim.num_steps": 3,
    "parallel.precision": "bf16",
    "validation.every": 0,
}


def built(**settings: Any):
    return build_model(TrainedModelSettings.model_validate({"network": BASE["model.network"]} | settings))


def built_of(changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters at the beginning of a tiny run."""
    recipe = tiny.recipe(Path("x"), Path("y"), changes)
    set_seed(recipe.seed)
    return dict(build_model(recipe.model).named_parameters())


@pytest.mark.parametrize(
    ("train", "prefixes"), [("memories", MEMORIES), ("memories_and_heads", MEMORIES + HEADS)]
)
@pytest.mark.parametrize("frozen_dtype", ["fp32", "bf16"])
def test_only_what_is_trained_moves(
    one_process: OneProcess, train: str, prefixes: tuple[str, ...], frozen_dtype: str
) -> None:
    changes = BASE | {"model.train": train, "model.frozen_dtype": frozen_dtype}
    start, end = built_of(changes), tiny.weights(one_process(changes))
    assert end.keys() == start.keys()
    moved = {name for name, value in end.items() if not torch.equal(value.float(), start[name].float())}
    allowed = {name for name in end if name.startswith(prefixes)}
    assert moved <= allowed
    assert len(moved) > 0.8 * len(allowed)  # fields of view behind a ReLU may rest
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in moved)


def test_the_encoder_learns_alone_from_the_motion(one_process: OneProcess) -> None:
    """No head has a loss, so that no layer runs; validation still measures the cameras that start from the motion."""
    changes = BASE | {
        "model.network": BASE["model.network"]
        | {"patch_encoder": "direct", "direct_stride": 7, "direct_levels": 2, "direct_channels": 4},
        "model.train": "patch_encoder",
        "losses.camera.weight": 0,
        "losses.depth.weight": 0,
        "losses.points.weight": 0,
        "losses.motion.weight": 1.0,
    }
    run = one_process(changes)
    start, end = built_of(changes), tiny.weights(run)
    moved = {name for name, value in end.items() if not torch.equal(value, start[name])}
    encoder = {name for name in end if name.startswith("aggregator.patch_embed.log_parallax")}
    assert encoder and encoder <= moved
    assert all(name.startswith("aggregator.patch_embed.") for name in moved)
    assert {"motion_turn", "motion_translation", "motion_fov", "motion_log_depth"} <= tiny.steps(run)[
        0
    ].keys()
    assert "camera_rotation" not in tiny.steps(run)[0]


def test_groups_of_what_is_trained_only(one_process: OneProcess) -> None:
    rates = {key for line in tiny.steps(one_process(BASE | {"model.train": "memories"})) for key in line}
    assert {rate for rate in rates if rate.startswith("lr/")} == {"lr/memory_decayed", "lr/memory_plain"}


@pytest.mark.parametrize("train", ["memories", "memories_and_heads"])
def test_bf16_changes_no_result(one_process: OneProcess, train: str) -> None:
    """Autocast rounds the same matrices to the same bits at every use."""
    run, reference = (
        one_process(BASE | {"model.train": train, "model.frozen_dtype": dtype}) for dtype in ("bf16", "fp32")
    )
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in tiny.steps(run))
    assert tiny.metrics(run) == tiny.metrics(reference)
    weights, expected = tiny.weights(run), tiny.weights(reference)
    for name, value in weights.items():
        rounded = expected[name].to(value.dtype)
        assert torch.equal(value, rounded), name


def test_a_killed_run_resumes_exactly(one_process: OneProcess, towns: Path, tmp_path: Path) -> None:
    changes = BASE | {"model.train": "memories", "model.frozen_dtype": "bf16"}
    recipe = tiny.recipe(towns, tmp_path, changes)
    with tiny.killed_after(2):
        tiny.train(recipe)
    tiny.train(recipe)
    assert tiny.metrics(tmp_path) == tiny.metrics(one_process(changes))
    weights = tiny.weights(tmp_path)
    for name, expected in tiny.weights(one_process(changes)).items():
        assert torch.equal(weights[name], expected)


@pytest.mark.exactness
def test_two_ranks_train_the_same_memories(one_process: OneProcess, ranks: Ranks) -> None:
    """Under DDP, with frozen parameters of two precisions; bf16 rounds other batches of chunks differently."""
    run, alone = ranks.folder / "frozen", one_process(rank_worker.FROZEN)
    for line, other in zip(tiny.steps(run), tiny.steps(alone), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-2)
    start = built_of(rank_worker.FROZEN)
    end, expected = tiny.weights(run), tiny.weights(alone)
    frozen = [name for name in end if not name.startswith(MEMORIES)]
    assert all(torch.equal(end[name], start[name]) for name in frozen)
    memories = [name for name in end if name.startswith(MEMORIES)]
    way = sum(float((expected[name] - start[name]).square().sum()) for name in memories) ** 0.5
    apart = sum(float((expected[name] - end[name]).square().sum()) for name in memories) ** 0.5
    assert apart < 0.1 * way


def test_only_matrices_of_frozen_blocks_are_stored_in_bf16() -> None:
    model = built(
        train="memories", frozen_dtype="bf16", network=tiny.NETWORK | {"patch_encoder": "correlation"}
    )
    stored = {name for name, value in model.named_parameters() if value.dtype == torch.bfloat16}
    assert not any(name.startswith(MEMORIES + HEADS) for name in stored)
    assert all(dict(model.named_parameters())[name].dim() > 1 and "token" not in name for name in stored)
    values = {
        name: value for name, value in model.named_parameters() if not name.startswith(MEMORIES + HEADS)
    }
    share = sum(values[name].numel() for name in stored) / sum(value.numel() for value in values.values())
    assert share > 0.9  # even at this size; vectors weigh less in a larger model


def test_the_result_is_a_model_in_fp32(one_process: OneProcess) -> None:
    """Stored as it was trained; read back, everything is fp32, as reconstruction and further training expect."""
    run = one_process(BASE | {"model.train": "memories", "model.frozen_dtype": "bf16"})
    assert {value.dtype for value in load_file(run / "model" / "model.safetensors").values()} == {
        torch.float32,
        torch.bfloat16,
    }
    model = load_model(run / "model", torch.device("cpu"))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert torch.isfinite(model(torch.rand(1, 2, 3, 3, 28, 42)).depth).all()


class Kept:
    """What autograd holds instead of a tensor that backward will need."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


@pytest.mark.parametrize("checkpointing", ["none", "blocks", "segments"])
@pytest.mark.parametrize("patch_encoder", ["conv", "dinov2", "correlation"])
def test_nothing_is_kept_for_what_lies_before_the_first_memory(
    patch_encoder: str, checkpointing: str
) -> None:
    sizes = {"patch_encoder": patch_encoder, "encoder_layers": 2, "encoder_heads": 2}
    kept_before = {}
    for train in ("all", "memories"):
        model = built(
            network=BASE["model.network"] | sizes, train=train, activation_checkpointing=checkpointing
        )
        alive: weakref.WeakSet[Kept] = weakref.WeakSet()
        at_memory: list[int] = []

        def pack(value: torch.Tensor, alive: weakref.WeakSet[Kept] = alive) -> Kept:
            kept = Kept(value)
            alive.add(kept)
            return kept

        first = model.aggregator.memory_units["1"]
        first.register_forward_pre_hook(lambda *_, at=at_memory, alive=alive: at.append(len(alive)))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.value):
            output = model(torch.rand(1, 2, 3, 3, 28, 42))
        assert len(alive) > at_memory[0], "the hooks see what is kept afterwards"
        output.depth.sum().backward()
        kept_before[train] = at_memory[0]
    assert kept_before["all"] > 0
    # A recomputed region keeps its input: here that is what the first memory, or its segment, reads.
    assert kept_before["memories"] <= (checkpointing != "none")


def test_every_trainable_parameter_of_a_loaded_model_gets_a_gradient(tmp_path: Path) -> None:
    """Engines wait for all of them; the published encoder has a tensor that nothing uses."""
    network = tiny.NETWORK | {"patch_encoder": "dinov2", "encoder_layers": 1, "encoder_heads": 2}
    built(network=network).save_pretrained(tmp_path / "model")
    for train in ("all", "memories", "memories_and_heads"):
        model = tiny.loaded(TrainedModelSettings(checkpoint=str(tmp_path / "model"), train=train))
        output = model(torch.rand(1, 2, 3, 3, 28, 42))
        total = output.pose_encoding_stages.sum() + output.depth.sum() + output.depth_conf.sum()
        total.backward()
        lacking = [
            name for name, value in model.named_parameters() if value.requires_grad and value.grad is None
        ]
        assert lacking == []


def test_a_checkpoint_without_memories_cannot_train_them(tmp_path: Path) -> None:
    built(network=tiny.NETWORK | {"memory_layers": []}).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="model.train memories: the model has no memories"):
        tiny.loaded(TrainedModelSettings(checkpoint=str(tmp_path / "model"), train="memories"))
    model = tiny.loaded(TrainedModelSettings(checkpoint=str(tmp_path / "model")))
    assert all(value.requires_grad for value in model.parameters())


def test_a_step_runs_the_heads_that_losses_teach_and_no_others(
    towns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scal3r_train.model.modeling_scal3r import Scal3RModel

    asked: list[tuple[bool, list[str]]] = []
    original = Scal3RModel.forward

    def forward(self, images, chunk_mask=None, heads=None, **others):
        asked.append((self.training, list(heads)))
        return original(self, images, chunk_mask, heads, **others)

    monkeypatch.setattr(Scal3RModel, "forward", forward)
    changes = {"model.network": tiny.NETWORK | {"point_head": True}, "losses.depth.weight": 0.0}
    tiny.train(tiny.recipe(towns, tmp_path, changes | {"losses.points.weight": 1.0, "optim.num_steps": 1}))
    assert [heads for training, heads in asked if training] == [["camera", "points"]]
    measured = {tuple(heads) for training, heads in asked if not training}
    assert measured == {("camera", "depth", "points")}, "errors of the first two, the loss of the others"
    assert "points_regression" in tiny.steps(tmp_path)[0]


def test_a_head_without_a_loss_rests_also_when_heads_are_trained() -> None:
    from scal3r_train.losses.depth_and_points import DepthLossSettings
    from scal3r_train.losses.objective import ObjectiveSettings
    from scal3r_train.training.trainer import freeze_untrained_heads

    model = built(train="memories_and_heads")
    freeze_untrained_heads(model, ObjectiveSettings(depth=DepthLossSettings(weight=0)))
    trained = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"aggregator", "camera_head"}
    choose_trained(model, "memories", "fp32")
    assert all(".memory_units." in name for name, value in model.named_parameters() if value.requires_grad)
