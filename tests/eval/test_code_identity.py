"""The hash of the code that scores depend on."""

from pathlib import Path

from scal3r_eval.code_identity import (
    CODE_VERSION,
    INDEXING_SHA256,
    SCORING_SHA256,
    STUDY_SHA256,
    sources_sha256,
)
from scal3r_train import __version__


def test_any_change_of_a_source_is_another_hash_and_its_place_is_not(tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append([tmp_path / folder / name for name in ("a.py", "b.py")])
        for path in paths[-1]:
            path.write_text(f"# {path.name}")
    known = sources_sha256(paths[0])
    assert known == sources_sha256(paths[1]) == sources_sha256(paths[0][::-1])
    paths[1][0].write_text("# changed")
    assert sources_sha256(paths[1]) != known
    (tmp_path / "one" / "a.py").rename(tmp_path / "one" / "c.py")
    assert sources_sha256([tmp_path / "one" / "c.py", paths[0][1]]) != known


def test_version_and_hashes_are_of_this_code() -> None:
    version, _, shown = CODE_VERSION.partition("+")
    assert version == __version__
    hashes = {shown, SCORING_SHA256, STUDY_SHA256, INDEXING_SHA256}
    assert len(hashes) == 4 and sources_sha256([]) not in hashes
