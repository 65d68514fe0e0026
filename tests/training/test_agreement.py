"""Ranks that were given different things are told so before anything is built."""

from pathlib import Path

import pytest

from scal3r_train.config import UserError
from scal3r_train.training import agreement
from scal3r_train.training.agreement import digest_of_file, first_difference, flattened, require_agreement


def test_equal_ranks_agree() -> None:
    assert first_difference([{"a": "1", "b": "2"}, {"b": "2", "a": "1"}]) is None
    assert first_difference([{"a": "1"}]) is None


def test_the_first_key_with_both_values_and_ranks() -> None:
    facts = [{"a": "1", "b": "2"}, {"a": "1", "b": "2"}, {"a": "1", "b": "3"}]
    line = first_difference(facts)
    assert line is not None
    assert line.startswith("ranks differ in b: 2 on rank 0, 3 on rank 2;")


def test_a_key_that_one_rank_lacks() -> None:
    line = first_difference([{"a": "1"}, {"a": "1", "model.checkpoint": "'x'"}])
    assert line is not None
    assert "model.checkpoint: absent on rank 0, 'x' on rank 1" in line


def test_leaves_of_a_recipe() -> None:
    document = {
        "optim": {"lr": 0.1, "betas": [0.9, 0.95]},
        "sources": [{"index": "a"}],
        "empty": [],
        "n": None,
    }
    assert flattened(document) == {
        "optim.lr": "0.1",
        "optim.betas.0": "0.9",
        "optim.betas.1": "0.95",
        "sources.0.index": "'a'",
        "empty": "[]",
        "n": "None",
    }


def test_content_counts_not_the_path(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    first.write_bytes(b"x" * 3_000_000)
    second.write_bytes(b"x" * 3_000_000)
    third.write_bytes(b"x" * 2_999_999 + b"y")
    assert digest_of_file(first) == digest_of_file(second) != digest_of_file(third)
    assert digest_of_file(tmp_path / "absent") == "No such file or directory"


def test_another_index_behind_the_same_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index.parquet"
    index.write_bytes(b"one")

    def gather(facts: dict[str, str]) -> list[dict[str, str]]:
        return [facts, facts | {f"content of index {index}": "other"}]

    require_agreement({"seed": 1}, [str(index)])
    monkeypatch.setattr(agreement, "gather_to_all", gather)
    with pytest.raises(
        UserError, match=r"^ranks differ in content of index .*index\.parquet: .* on rank 0, other on"
    ):
        require_agreement({"seed": 1}, [str(index)])
