"""A whole study in miniature: every stage by its command, nothing twice, tables of what the files say."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from scal3r_eval import subprocesses
from scal3r_eval.study.__main__ import main
from scal3r_train.config import UserError
from tests.conftest import PROJECT_ROOT
from tests.forking import ForkServer

TINY = """
extends: {parent}
model:
  network: {{hidden_size: 16, num_layers: 2, num_heads: 2, camera_heads: 2, correlation_channels: 4,
             correlation_radius: 1, tap_layers: [1, 1, 1, 1], memory_layers: {memories}}}
curriculum: {{sequences_per_group: 1, chunks_per_rank: {{3: 1.0}}, resolution: [{{height: 24, width: 36}}]}}
"""


@pytest.fixture(scope="module", autouse=True)
def _forked(forks: ForkServer) -> Iterator[None]:
    """Fork the commands that a study starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocesses, "subprocess", SimpleNamespace(run=forks.instead_of_subprocess))
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a tiny study, which has run once."""
    folder = tmp_path_factory.mktemp("study")
    recipes = PROJECT_ROOT / "recipes" / "study"
    for name, memories in (("full", "[0]"), ("no_gcm", "[]")):
        text = TINY.format(parent=recipes / "full.yaml", memories=memories)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    arguments = [
        str(recipes / "smoke.yaml"),
        f"output_dir={folder}/study",
        f"variants={{full: {folder}/full.yaml, no_gcm: {folder}/no_gcm.yaml}}",
        "seeds=[0]",
        "num_steps=2",
        "jobs=1",
        "towns.num_sequences=2",
        "towns.num_frames=20",
        "towns.height=24",
        "towns.width=36",
        "held_out=[{chunks: 5, sequences: 2}]",
        "chunks_in_memory=[1, 2, 5]",
    ]
    assert main(arguments) == 0
    return arguments


def output(study: list[str]) -> Path:
    return Path(study[1].removeprefix("output_dir="))


def test_results_say_what_the_scores_say(study: list[str]) -> None:
    folder = output(study)
    results = json.loads((folder / "results.json").read_text())
    numbers = results["results"]
    assert (numbers["num_sequences"], numbers["seeds"]) == (2, [0])
    assert list(numbers["means"]) == ["prior", "copy", "full", "no_gcm", "full, frozen", "full, gcs_off"]
    scores = json.loads((folder / "scores" / "full_0.json").read_text())["conditions"]
    assert set(scores) == {"as_trained", "frozen", "gcs_off", "memory_1", "memory_2", "memory_5"}
    of_full = scores["as_trained"]
    expected = sum(town["ate_percent"] for town in of_full.values()) / 2
    assert numbers["means"]["full"]["ate_percent"]["mean"] == pytest.approx(expected)
    other = json.loads((folder / "scores" / "no_gcm_0.json").read_text())["conditions"]["as_trained"]
    differences = [other[name]["ate_se3_percent"] - of_full[name]["ate_se3_percent"] for name in of_full]
    measured = numbers["differences"]["no_gcm"]["ate_se3_percent"]
    assert measured["mean"] == pytest.approx(sum(differences) / 2)
    assert (measured["low"], measured["high"]) == (
        pytest.approx(min(differences)),
        pytest.approx(max(differences)),
    )
    for name, town in scores["memory_1"].items():
        for key, value in town.items():
            alone = scores["gcs_off"][name][key]
            assert (value is None and alone is None) or value == pytest.approx(alone, rel=1e-4, abs=1e-4)
    assert numbers["by_length"]["5"] == numbers["means"]
    assert results["seconds"]["training"] > 0


def test_the_page_holds_the_tables(study: list[str]) -> None:
    folder = output(study)
    page = (folder / "results.md").read_text()
    mean = json.loads((folder / "results.json").read_text())["results"]["means"]["no_gcm"]["ate_percent"]
    assert f"{mean['mean']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]" in page
    assert page.count("| full, frozen |") == 7
    assert "2 held-out towns, seeds 0, 2 steps" in page


def test_what_is_complete_is_not_repeated_and_what_is_missing_is_made(study: list[str]) -> None:
    folder = output(study)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("results")]
    before = {path: path.stat().st_mtime_ns for path in files}
    lost = folder / "scores" / "no_gcm_0.json"
    conditions = json.loads(lost.read_text())["conditions"]
    lost.unlink()
    assert main(study) == 0
    assert json.loads(lost.read_text())["conditions"] == conditions
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {lost}


def test_another_study_in_the_same_folder_is_refused(study: list[str]) -> None:
    with pytest.raises(UserError, match="full_0 was trained with other settings"):
        main([*study, "num_steps=3"])


def test_a_training_on_other_sequences_is_not_taken_for_complete(study: list[str]) -> None:
    done = output(study) / "runs" / "no_gcm_0" / "seconds.json"
    before = done.read_text()
    other = {**json.loads(before), "index_sha256": 64 * "0"}
    done.write_text(json.dumps(other))
    with pytest.raises(UserError, match="no_gcm_0 was trained on other sequences; remove it"):
        main(study)
    done.write_text(before)


def test_scores_of_other_sequences_are_not_taken_for_complete(study: list[str]) -> None:
    """An index that is made again, in place: nothing else says so."""
    folder = output(study)
    index, guesses = folder / "held_out_005" / "index.parquet", folder / "scores" / "guesses.json"
    before = json.loads(guesses.read_text())
    pq.write_table(pq.read_table(index), index, compression="none")
    assert main(study) == 0
    after = json.loads(guesses.read_text())
    assert after["conditions"] == before["conditions"] and after["indexes"] != before["indexes"]
    assert after["reading"]["schedule"]["chunk_size"] == 8


def test_runs_of_a_version_that_had_fewer_keys_are_taken(study: list[str]) -> None:
    recipe = output(study) / "runs" / "full_0" / "recipe.yaml"
    before = recipe.read_text()
    fewer = before.replace("  memory: null\n", "")
    assert fewer != before
    recipe.write_text(fewer)
    assert main(study) == 0
    recipe.write_text(before)
