"""The small inputs of the shared field notes, indexed as their READMEs say; skipped where they are not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from scal3r_data_tools import index
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index

CASES: dict[str, tuple[str, tuple[str, ...], int | str | tuple[int, int]]] = {
    "colmap-exif/scene3": ("colmap", ("is_ordered=true",), "none of them can be used"),
    "colmap-exif/scene6": ("colmap", ("is_ordered=true",), "none of them can be used"),
    "colmap-images-txt-one-line/scene": ("colmap", (), 8),
    "nerfstudio-angle-y": ("nerfstudio", (), 4),
    "nerfstudio-exif/scene3": ("nerfstudio", (), "all 4 images are to be turned by EXIF"),
    "nerfstudio-exif/scene6": ("nerfstudio", (), "all 8 images are to be turned by EXIF"),
    "nerfstudio-null/null_cx": ("nerfstudio", (), 2),
    "nerfstudio-null/zero_fl": ("nerfstudio", (), "fl_x of images/0000.jpg is 0"),
    "nerfstudio-null/text_fl": ("nerfstudio", (), "fl_x of images/0000.jpg is \"137.5\""),
    "nerfstudio-null/zero_w": ("nerfstudio", (), "w of images/0000.jpg is 0"),
    "tum-vi/seq": ("euroc", (), 3),
    "heic-left-out/images": ("images", (), 2),
    "orientation-xmp/images": ("images", (), 4),
    "times-names-with-spaces/images": ("images", (), 4),
    "video-avi-h264-bframes": ("video", (), 16),
    "video-two-streams": ("video", (), (140, 252)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_cases_of_the_field(case: str, shared_dir: Path, tmp_path: Path) -> None:
    """As their READMEs ask; those about trajectories are in tests/metrics/test_degenerate.py."""
    source = shared_dir / "cases" / case
    if not source.exists():
        pytest.skip("the cases are not here")
    name, options, expected = CASES[case]
    target = tmp_path / "index.parquet"
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected) as caught:
            index.main(name, source, target, list(options))
        assert "\n" not in str(caught.value)
        return
    assert index.main(name, source, target, list(options)) == 0
    record = load_index(target)[0]
    if isinstance(expected, tuple):
        assert tuple(record.image_size[0]) == expected
    else:
        assert record.num_frames == expected
    if case == "nerfstudio-angle-y":
        assert record.intrinsics is not None and record.intrinsics[0, 1] == pytest.approx(165.0, abs=0.1)
