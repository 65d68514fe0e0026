"""A checkpoint is read by the processes that will hold it: each its own pieces, no process the whole model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scal3r_train.config import UserError
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.load_model import load_model
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.stored_weights import StoredWeights
from tests.forking import ForkServer
from tests.parallel.loading_worker import ENGINES, TRAINED
from tests.training import tiny

pytestmark = pytest.mark.timeout(300)
NETWORK = tiny.NETWORK | {"patch_encoder": "dinov2", "encoder_layers": 1, "encoder_heads": 2}
CUT = ("zero3", "zero3_offload", "fsdp2")  # parameters are held in pieces


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights in several files, some of them in bf16."""
    folder = tmp_path_factory.mktemp("loading") / "model"
    torch.manual_seed(0)
    model = Scal3RModel(Scal3RConfig(**NETWORK))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1)
            if name.endswith("mlp.fc1.weight"):
                parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer, checkpoint: Path) -> Path:
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("loaded")
    done = forks.run_ranks(2, "tests/parallel/loading_worker.py", checkpoint, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("train", TRAINED)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_pieces_are_the_checkpoint(loaded: Path, checkpoint: Path, engine: str, train: str) -> None:
    stored = {
        name: value for path in checkpoint.glob("*.safetensors") for name, value in load_file(path).items()
    }
    ranks = [load_file(loaded / f"{engine}_{train}_{rank}.safetensors") for rank in range(2)]
    depths = [pieces.pop("depth") for pieces in ranks]
    covered = {name: torch.zeros(value.numel(), dtype=torch.bool) for name, value in stored.items()}
    for key, piece in (entry for pieces in ranks for entry in pieces.items()):
        start, name = int(key.split("/", 1)[0]), key.split("/", 1)[1]
        interval = slice(start, start + piece.numel())
        assert torch.equal(piece.float(), stored[name].flatten()[interval].to(piece.dtype).float()), name
        covered[name][interval] = True
    assert all(whole.all() for whole in covered.values())
    reference = load_model(checkpoint, torch.device("cpu")).float()
    images = torch.rand(1, 2, 3, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    tolerance = 1e-5 if train == "all" else 2e-2
    for depth in depths:
        torch.testing.assert_close(depth, reference(images).depth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_rank_reads_what_it_will_not_hold(loaded: Path, checkpoint: Path, engine: str) -> None:
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    for rank in range(2):
        share = json.loads((loaded / f"{engine}_all_{rank}.json").read_text()) / size
        # A row that two ranks share is read by both; these rows are as long as the whole of a small parameter.
        assert share < (0.6 if engine in CUT else 1.0), (engine, rank, share)
        assert share > (0.4 if engine in CUT else 0.8), (engine, rank, share)


@pytest.mark.parametrize("start", [0, 1, 7])
@pytest.mark.parametrize("stop", [8, 12, 24])
@pytest.mark.parametrize("name", ["aggregator.memory_units.0.w0", "aggregator.camera_token"])
def test_any_interval_can_be_read(checkpoint: Path, name: str, start: int, stop: int) -> None:
    whole = load_file(
        checkpoint / json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"][name]
    )
    target = torch.empty(stop - start)
    StoredWeights(checkpoint).read_into(name, start, target)
    assert torch.equal(target, whole[name].flatten()[start:stop])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("missing", {"point_head": True}),
        ("unexpected", {"depth_head": False}),
        ("mismatched", {"hidden_size": 32}),
    ],
)
def test_weights_of_another_network_are_refused(
    checkpoint: Path, kind: str, change: dict[str, object]
) -> None:
    model = Scal3RModel(Scal3RConfig(**NETWORK | change))
    with pytest.raises(UserError, match=f"does not fit its config.json: [0-9]+ {kind} tensors, such as "):
        StoredWeights(checkpoint).require_fit(model)


def test_a_damaged_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read: .*; copy or save it again"):
        StoredWeights(tmp_path)
