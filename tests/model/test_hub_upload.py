"""Publishing: which files, in one commit, under a card that is true; and a line for all that can go wrong."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from scal3r_train.cli import main as scal3r
from scal3r_train.config import UserError
from scal3r_train.model.hub_files import without_local_paths
from scal3r_train.model.hub_upload import push_folder
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.training.checkpointing.checkpoint import random_state
from scal3r_train.training.checkpointing.manifest import sealed
from tests.conftest import PROJECT_ROOT
from tests.inference.conftest import make_tiny_model
from tests.model.fake_hub import FakeHub, fake_hub

SHIPPED = PROJECT_ROOT / "assets" / "scal3r-tiny"
REPO = "someone/scal3r-small"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of weights as a training leaves it, with what must stay at home beside."""
    folder = tmp_path / "weights"
    shutil.copytree(SHIPPED, folder)
    (folder / "preprocessor_config.json").write_text('{"size": 48}')
    (folder / "recipe.yaml").write_text(f"name: x\noutput_dir: {tmp_path}/runs/x\n")
    (folder / "notes.txt").write_text("mine")
    (folder / ".lock").mkdir()
    return folder


def test_one_commit_holds_what_is_published_and_removes_older_weights(
    hub: FakeHub, folder: Path, tmp_path: Path
) -> None:
    hub.repositories[REPO] = {
        "model-00001-of-00002.safetensors": b"",
        "model.safetensors.index.json": b"",
        "a.md": b"",
    }
    address = push_folder(folder, REPO)
    assert address == f"https://huggingface.co/{REPO}/commit/1"
    published = hub.repositories[REPO]
    assert hub.commits == [
        {
            "summary": "Upload a Scal3R model",
            "added": sorted({*published} - {"a.md"}),
            "deleted": ["model-00001-of-00002.safetensors", "model.safetensors.index.json"],
        }
    ]
    assert sorted(published) == [
        "README.md", "a.md", "config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml",
        "scal3r_auto.py",
    ]  # fmt: skip
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "scal3r_auto.py"):
        assert published[name] == (folder / name).read_bytes()
    assert published["recipe.yaml"] == b"name: x\noutput_dir: runs/x\n"
    card = ModelCard(published["README.md"].decode())
    assert f'Scal3RModel.from_pretrained("{REPO}")' in card.text and "path/to/this/folder" not in card.text
    assert f"hf download {REPO} --local-dir scal3r-small && scal3r reconstruct" in card.text
    assert not any(str(tmp_path).encode() in content for content in published.values())
    with pytest.raises(AssertionError, match="the network was reached for"):
        socket.create_connection(("huggingface.co", 443))
    paths = [
        call.split(" ")[1] for call in hub.calls
    ]  # all that was asked, since nothing else can be reached
    assert paths[0] == "/api/repos/create" and paths[-1] == f"/api/models/{REPO}/commit/main"
    assert f"/api/models/{REPO}/tree/main" in paths


def manifest(step: int) -> str:
    """The manifest of a complete checkpoint, of a network without parameters."""
    entries = {
        "format": 3,
        "code_version": "0",
        "engine": "single",
        "world_size": 1,
        "progress": {"step": step},
    }
    return sealed({**entries, "parameters": {}, "random": [random_state()], "pieces": [], "files": {}})


def test_a_run_is_published_by_its_last_weights(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (2, 4, 6):
        shutil.copytree(folder, run / f"checkpoints/step_{step:08d}/model")
        if step != 6:  # which is not complete
            (run / f"checkpoints/step_{step:08d}/manifest.json").write_text(manifest(step))
    (run / "checkpoints/step_00000004/model/preprocessor_config.json").unlink()
    assert scal3r(["push", str(run), REPO, "--private"]) == 0
    assert hub.is_private == {REPO: True}
    assert "preprocessor_config.json" not in hub.repositories[REPO]
    shutil.copytree(folder, run / "model")
    assert scal3r(["push", str(run), REPO]) == 0
    assert "preprocessor_config.json" in hub.repositories[REPO] and len(hub.commits) == 2


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "preprocessor_config.json"])
def test_files_that_lie_elsewhere_are_not_published(
    hub: FakeHub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(folder, tmp_path / "mine")
    (tmp_path / "mine" / name).rename(tmp_path / "secret")
    (tmp_path / "mine" / name).symlink_to(tmp_path / "secret")
    assert scal3r(["push", str(tmp_path / "mine"), REPO]) == 2
    assert f"{name} leads to {tmp_path / 'secret'}, outside of" in capsys.readouterr().err
    assert hub.calls == [] and hub.repositories == {}
    blobs = tmp_path / "models--a--b" / "blobs"  # as the Hub's own store of downloads has it
    snapshot = blobs.parent / "snapshots" / "abc"
    shutil.copytree(folder, snapshot)
    blobs.mkdir()
    (snapshot / name).rename(blobs / "def")
    (snapshot / name).symlink_to("../../blobs/def")
    assert scal3r(["push", str(snapshot), REPO, "--dry-run"]) == 0


def test_a_dry_run_shows_files_and_card_and_asks_nobody(
    hub: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scal3r(["push", str(folder), REPO, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    size = (folder / "model.safetensors").stat().st_size
    assert f"model.safetensors         {size:14,} bytes\n" in shown
    assert f"bytes to https://huggingface.co/{REPO}\n" in shown
    assert "pipeline_tag: image-to-3d" in shown and "notes.txt" not in shown
    assert hub.calls == [] and hub.repositories == {}


def test_a_model_pushes_itself_with_the_card_of_the_weights_that_it_has(hub: FakeHub, folder: Path) -> None:
    model = Scal3RModel.from_pretrained(folder)
    model.push_to_hub(REPO, private=True, commit_message="first")
    first = dict(hub.repositories[REPO])
    assert hub.commits[0]["summary"] == "first" and hub.is_private[REPO]
    title = next(line for line in (folder / "README.md").read_text().splitlines() if line.startswith("# "))
    assert title in first["README.md"].decode() and "recipe.yaml" in first
    assert "auto_map" in json.loads(first["config.json"])
    assert b"/" not in first["config.json"].replace(b"\\/", b"")  # no path of the folder that it came from
    model.camera_head.pose_branch.fc2.bias.data += 1  # type: ignore[union-attr]
    model.push_to_hub("someone/other")
    second = hub.repositories["someone/other"]
    text = second["README.md"].decode()
    assert "recipe.yaml" not in second and "preprocessor_config.json" in second
    assert "# other" in text and "went on from `scal3r-tiny`" in text and "not recorded" in text
    card = ModelCard(text).data
    assert (card.pipeline_tag, card.library_name, card.license) == ("image-to-3d", "transformers", "other")


def test_saving_publishes_on_request(hub: FakeHub, tmp_path: Path) -> None:
    make_tiny_model().save_pretrained(tmp_path / "m", push_to_hub=True, repo_id=REPO)
    assert {"README.md", "model.safetensors"} <= set(hub.repositories[REPO])
    assert not (tmp_path / "m/README.md").exists()


@pytest.mark.parametrize(
    ("refusal", "line"),
    [
        (("create", 401), "does not accept the token; run `hf auth login`"),
        (("create", 403), f"may not write to {REPO}: take one with write access to someone"),
        (("commit", 403), f"may not write to {REPO}"),
        (("commit", 413), "413: not for you"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: FakeHub, folder: Path, refusal: tuple[str, int], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refusal = refusal
    assert scal3r(["push", str(folder), REPO]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert line in shown and shown.startswith("scal3r: error: ")
    assert hub.commits == [] and hub.repositories.get(REPO, {}) == {}


def test_without_network_token_or_permission_to_ask(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.failure = ConnectionError("Name or service not known")
    with pytest.raises(
        UserError, match=r"cannot be reached \(Name or service not known\); nothing was published"
    ):
        push_folder(folder, REPO)
    hub.failure = None
    monkeypatch.setattr("scal3r_train.model.hub_upload.get_token", lambda: None)
    before = len(hub.calls)
    with pytest.raises(
        UserError, match="no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN"
    ):
        push_folder(folder, REPO)
    assert len(hub.calls) == before


@pytest.mark.parametrize("name", ["scal3r", "a/b/c", "a/b c", "/a", "a--b/c..d"])
def test_bad_names(hub: FakeHub, folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a repository; write USER/NAME"):
        push_folder(folder, name)
    assert hub.calls == []


def test_what_holds_no_weights(
    hub: FakeHub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (folder / "model.safetensors").unlink()
    for given, line in ((tmp_path / "empty", "holds no weights"), (folder, "has no .safetensors file"),
                        (tmp_path / "none", "is no folder")):  # fmt: skip
        assert scal3r(["push", str(given), REPO]) == 2
        assert line in capsys.readouterr().err
    assert hub.calls == []


def test_a_card_that_names_this_machine_is_refused(hub: FakeHub, folder: Path) -> None:
    with (folder / "README.md").open("a") as file:
        file.write(f"\nfrom {folder}/x\n")
    with pytest.raises(UserError, match=r"README.md:\d+ names .*weights, a place on this machine; edit it"):
        push_folder(folder, REPO)
    assert hub.calls == []


def test_paths_of_this_machine_are_cut_and_stay_different() -> None:
    recipe = {
        "output_dir": "runs/x",
        "data": {"sources": [{"index": "/a/b/towns/index.parquet"}, {"index": "/a/c/towns/index.parquet"}]},
        "model": {"checkpoint": "../other/model"},
        "url": "hf://datasets/o/n/index.parquet",
        "steps": 3,
    }
    assert without_local_paths(recipe) == {
        "output_dir": "runs/x",
        "data": {"sources": [{"index": "b/towns/index.parquet"}, {"index": "c/towns/index.parquet"}]},
        "model": {"checkpoint": "other/model"},
        "url": "hf://datasets/o/n/index.parquet",
        "steps": 3,
    }
