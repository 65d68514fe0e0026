"""BlendedMVS (and BlendedMVG): photographs blended with renderings of their reconstruction.

Layout: SCENE/{blended_images/{%08d.jpg, %08d_masked.jpg}, cams/{%08d_cam.txt, pair.txt}, rendered_depth_maps/%08d.pfm};
SRC may be the whole or one scene, and scenes may lie some folders deep, as the archives unpack. A _cam.txt holds, after
the word `extrinsic`, the 4x4 cam_from_world, after `intrinsic` the 3x3 matrix, then a depth range. Depth is PFM, z in
the scene's own unit (not metric), 0 = nothing. Masked images (background black) are skipped. Pixel centres are taken to
be at half integers, as in MVSNet, whose format this is. Views are in no order; pair.txt lists, for each view, those
that see most of the same, best first. Views without camera, and with a damaged one, count as missing.
validation_list.txt in SRC, one scene a line, marks split "test".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.files import files_by_number, folders_where, relative_name
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_CAMERA, NO_FRAMES, NO_IMAGE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_text_file

IMAGES, DEPTHS = "blended_images", "rendered_depth_maps"
VALIDATION = "validation_list.txt"


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all scenes at most four levels below the folder, ordered by path."""
    source = source.resolve()
    listing = source / VALIDATION
    held_out = set(read_text_file(listing).split()) if listing.is_file() else set()
    for folder in folders_where(source, lambda names: IMAGES in names, 4):
        record = _scene(folder, source, held_out)
        if record is not None:
            yield record


@names_file("folder")
def _scene(folder: Path, source: Path, held_out: set[str]) -> SequenceRecord | None:
    """One scene, None when none of its views is complete."""
    images = files_by_number(folder / IMAGES, r"(\d+)\.(?:jpg|png)")
    depths = files_by_number(folder / DEPTHS, r"(\d+)\.pfm") if (folder / DEPTHS).is_dir() else {}
    cameras = {number: _camera(folder / "cams" / f"{number:08d}_cam.txt") for number in sorted(images)}
    numbers = [number for number, camera in cameras.items() if camera is not None]
    leave_out(NO_CAMERA, [f"{IMAGES}/{images[n]}" for n, camera in cameras.items() if camera is None], folder)
    listed = files_by_number(folder / "cams", r"(\d+)_cam\.txt") if (folder / "cams").is_dir() else {}
    absent = [f"{IMAGES}/{number:08d}.jpg" for number in sorted(set(listed) - set(images))]
    leave_out(NO_IMAGE, absent, folder)
    if not numbers:
        leave_out(NO_FRAMES, [relative_name(folder, source)], source, SEQUENCE)
        return None
    complete = [camera for camera in cameras.values() if camera is not None]
    covisible = _covisible(folder / "cams" / "pair.txt", numbers)
    num = len(numbers)
    return SequenceRecord(
        dataset="blended_mvs",
        sequence_id=relative_name(folder, source),
        split="test" if folder.name in held_out else "train",
        root=folder,
        image=tuple(f"{IMAGES}/{images[number]}" for number in numbers),
        # a scene's images have one size
        image_size=np.tile(read_image_size(folder / IMAGES / images[numbers[0]]), (num, 1)),
        timestamp=np.array(numbers, np.float64),
        depth=tuple(f"{DEPTHS}/{depths[n]}" if n in depths else "" for n in numbers) if depths else (),
        depth_codec="pfm" if depths else "",
        camera_model="pinhole",
        intrinsics=np.stack([intrinsics for _, intrinsics in complete]),
        cam_from_world=np.stack([pose for pose, _ in complete]),
        covisible=covisible,
        num_missing=len(images) + len(absent) - num,
        is_ordered=False,
        licence="CC BY 4.0",
        source="BlendedMVS",
    )


def _camera(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """cam_from_world [3, 4] and fx fy cx cy [4] of a _cam.txt, None when it is missing or damaged."""
    try:
        words = read_text_file(path).split()
        pose = np.array(words[words.index("extrinsic") + 1 :][:16], np.float64).reshape(4, 4)[:3]
        k = np.array(words[words.index("intrinsic") + 1 :][:9], np.float64).reshape(3, 3)
    except (OSError, ValueError):
        return None
    intrinsics = k[[0, 1, 0, 1], [0, 1, 2, 2]]
    return (pose, intrinsics) if np.isfinite(pose).all() and np.isfinite(intrinsics).all() else None


def _covisible(path: Path, numbers: list[int]) -> np.ndarray | None:
    """Frames [S, N] that see most of the same as each frame, best first, -1 filled; None without the file.

    The file: how many views; then for each its number, and in the next line how many others, each with a score.
    """
    if not path.is_file():
        return None
    words = read_text_file(path).split()
    row = {number: place for place, number in enumerate(numbers)}
    others: dict[int, list[int]] = {}
    try:
        place = 1
        for _ in range(int(words[0])):
            number, count = int(words[place]), int(words[place + 1])
            pairs = words[place + 2 : place + 2 + 2 * count]
            others[number] = [row[int(word)] for word in pairs[::2] if int(word) in row]
            place += 2 + 2 * count
    except (IndexError, ValueError):
        raise UserError(f"{path} is no list of views and scores; download it again or remove it") from None
    width = max((len(others.get(number, ())) for number in numbers), default=0)
    if width == 0:
        return None
    table = np.full((len(numbers), width), -1, np.int64)
    for number, place in row.items():
        found = others.get(number, [])
        table[place, : len(found)] = found
    return table
