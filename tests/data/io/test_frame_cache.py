"""The local cache changes how fast pixels come, not which."""

import dataclasses
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io import frame_cache
from scal3r_train.data.io.frame_cache import CacheSettings, FrameCache, require_room
from scal3r_train.data.io.frame_io import read_frame_depth, read_frame_image
from scal3r_train.data.sequence import SequenceRecord

HW = (14, 14)


@pytest.fixture
def record(towns: Path) -> SequenceRecord:
    return load_index(towns)[0]


def cache(folder: Path, **settings: float) -> FrameCache:
    return FrameCache(CacheSettings(folder=folder, **{"height": 14, "width": 14, **settings}))


def test_what_is_kept_is_what_was_read(record: SequenceRecord, tmp_path: Path) -> None:
    first, again = cache(tmp_path).read(record, 3, HW), cache(tmp_path).read(record, 3, HW)
    assert first.image.shape == (14, 21, 3)  # 28 x 42 shrunk to cover 14 x 14
    assert first.depth is not None and again.depth is not None
    assert (first.image == again.image).all() and (first.depth == again.depth).all()
    gone = dataclasses.replace(record, depth=("gone.png",) * record.num_frames)
    assert (cache(tmp_path).read(gone, 3, HW).image == first.image).all()  # nothing is decoded again


def test_small_originals_are_kept_as_they_are(record: SequenceRecord, tmp_path: Path) -> None:
    got = cache(tmp_path, height=518, width=518).read(record, 0, HW)
    assert got.depth is not None
    assert (got.image == read_frame_image(record, 0)).all()
    assert (got.depth == read_frame_depth(record, 0)).all()


def test_a_full_cache_takes_no_more(record: SequenceRecord, tmp_path: Path) -> None:
    one = 14 * 21 * (3 + 4)
    small = cache(tmp_path, gigabytes=2.5 * one / 1e9)
    for frame in range(6):
        small.read(record, frame, HW)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert small.num_bytes == 2 * one
    assert (small.read(record, 5, HW).image == cache(tmp_path / "other").read(record, 5, HW).image).all()


def test_another_size_or_a_changed_file_is_another_copy(record: SequenceRecord, tmp_path: Path) -> None:
    moved = tmp_path / "data"
    moved.mkdir()
    (moved / "a.png").write_bytes((record.root / record.image[0]).read_bytes())
    one = dataclasses.replace(record, root=moved, image=("a.png",) * record.num_frames, depth=())
    before = cache(tmp_path / "c").read(one, 0, HW)
    (moved / "a.png").write_bytes((record.root / record.image[9]).read_bytes())
    after = cache(tmp_path / "c").read(one, 0, HW)
    assert (before.image != after.image).any()
    assert cache(tmp_path / "c", height=28).read(one, 0, HW).image.shape == (28, 42, 3)


def test_a_damaged_copy_is_made_again(record: SequenceRecord, tmp_path: Path) -> None:
    whole = cache(tmp_path).read(record, 0, HW)
    (copy,) = tmp_path.rglob("*.safetensors")
    copy.write_bytes(copy.read_bytes()[:40])
    assert (cache(tmp_path).read(record, 0, HW).image == whole.image).all()


def _fill(folder: Path, index: Path, worker: int) -> None:
    record = load_index(index)[worker % 2]
    for frame in range(10):
        cache(folder).read(record, frame, HW)


def test_processes_share_a_folder(towns: Path, tmp_path: Path) -> None:
    context = get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, towns, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    copies = list(tmp_path.rglob("*.safetensors"))
    assert len(copies) == 20
    assert cache(tmp_path).num_bytes == 20 * 14 * 21 * 7


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache\.folder .*file/cache cannot be made"):
        cache(tmp_path / "file" / "cache")


def test_pixels_do_not_depend_on_what_is_held(record: SequenceRecord, tmp_path: Path) -> None:
    half = cache(tmp_path / "half")
    half.read(record, 0, HW)
    fresh = [cache(tmp_path / "none", gigabytes=1e-9).read(record, frame, HW).image for frame in (0, 1)]
    held = [half.read(record, frame, HW).image for frame in (0, 1)]
    assert all((a == b).all() for a, b in zip(fresh, held, strict=True))
    assert np.ptp(fresh[0]) > 0


def test_whatever_decides_the_pixels_gives_another_copy(record: SequenceRecord, tmp_path: Path) -> None:
    """An index that was mended is not answered with what the wrong one left behind."""
    plain = cache(tmp_path).read(record, 3, HW)
    assert plain.depth is not None
    doubled = cache(tmp_path).read(dataclasses.replace(record, depth_scale=2.0), 3, HW)
    assert doubled.depth is not None
    assert np.allclose(doubled.depth, 2 * plain.depth)
    near = cache(tmp_path).read(dataclasses.replace(record, max_depth=float(np.median(plain.depth))), 3, HW)
    assert near.depth is not None and (near.depth == 0).sum() > (plain.depth == 0).sum()
    assert cache(tmp_path).read(dataclasses.replace(record, depth=()), 3, HW).depth is None
    lens = np.tile([0.2, 0, 0, 0], (record.num_frames, 1))
    bent = dataclasses.replace(record, camera_model="opencv", distortion=lens)
    assert (cache(tmp_path).read(bent, 3, HW).image != plain.image).any()


def test_packed_sequences_are_told_apart(towns: Path, tmp_path: Path) -> None:
    """Their files have the same names and lie in the same file."""
    from scal3r_data_tools import pack

    assert pack.main(towns, tmp_path / "packed") == 0
    packed, plain = load_index(tmp_path / "packed" / "index.parquet"), load_index(towns)
    for row in (0, 1):
        expected = cache(tmp_path / "a").read(plain[row], 2, HW).image
        assert (cache(tmp_path / "b").read(packed[row], 2, HW).image == expected).all()


def test_a_disk_that_is_full_ends_no_run(
    record: SequenceRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise SafetensorError("no space left on device")

    monkeypatch.setattr(frame_cache, "save_file", fail)
    full = cache(tmp_path)
    expected = cache(tmp_path / "other", gigabytes=1e-9).read(record, 0, HW).image
    assert all((full.read(record, 0, HW).image == expected).all() for _ in range(3))
    assert full.num_bytes == 0
    assert capfd.readouterr().err.count("cannot be written (no space left on device); going on without") == 1


def test_copies_must_be_large_enough(tmp_path: Path) -> None:
    settings = CacheSettings(folder=tmp_path, height=518, width=518)
    require_room(settings, 518, 518)
    require_room(CacheSettings(), 5000, 5000)  # no cache
    with pytest.raises(UserError, match="steps need up to 674x518 .*raise data.cache.width"):
        require_room(settings, 518, 674)
