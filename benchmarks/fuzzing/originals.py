"""Right inputs of every kind, small ones, from which wrong ones are made."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from ruamel.yaml import YAML

from scal3r_train.data.index.index import write_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.scene.ply import write_ply
from scal3r_train.scene.scene import write_depth
from scal3r_train.shipped import shipped_folder
from tests.data_tools.miniature import Miniature, make_miniature
from tests.data_tools.tiny_circuit import sgi_bytes, spm_bytes, write_torcs
from tests.scene.visualization.example_scene import write_example_scene

HW = (24, 32)
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".bmp": "BMP", ".gif": "GIF"}


def small_scene() -> Miniature:
    """Return a scene whose layouts have a few small frames."""
    return make_miniature(num_frames=4, hw=(48, 64), focal=(52.0, 51.0), centre_offset=(0.5, -0.5))


def pixels(seed: int = 0, channels: int = 3) -> np.ndarray:
    """Return random pixels [H, W, channels] uint8."""
    return np.random.default_rng(seed).integers(0, 255, (*HW, channels), np.uint8)


def write_recipes(folder: Path) -> None:
    """Write all shipped recipes that `scal3r config` reads."""
    for path in sorted(shipped_folder("recipes").rglob("*.yaml")):
        if path.parent.name not in ("accelerate", "launch"):
            target = folder / path.relative_to(shipped_folder("recipes"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def write_small_recipe(folder: Path) -> None:
    """Write the recipe of the smallest network."""
    shutil.copy(shipped_folder("recipes") / "debug" / "cpu.yaml", folder / "recipe.yaml")


def keys_of(recipe: Path) -> list[str]:
    """Return the dotted keys of a recipe."""
    tree = YAML(typ="safe", pure=True).load(recipe.read_text("utf-8"))
    return list(_keys(tree, ""))


def _keys(node: Any, above: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{above}{key}"
            yield from _keys(value, f"{above}{key}.")


def write_images(folder: Path) -> None:
    """Write pictures in every format that is read."""
    for suffix, kind in SUFFIXES.items():
        Image.fromarray(pixels()).save(folder / f"rgb{suffix}", kind)
    Image.fromarray(pixels(channels=4)).save(folder / "rgba.png")
    Image.fromarray(pixels()[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels()).quantize(16).save(folder / "palette.png")
    Image.fromarray(pixels()).save(folder / "progressive.jpg", progressive=True)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels()).save(folder / "turned.jpg", exif=exif)
    import h5py
    import pillow_heif

    pillow_heif.from_pillow(Image.fromarray(pixels())).save(folder / "rgb.heic")
    with h5py.File(folder / "linear.hdf5", "w") as file:
        file["dataset"] = pixels().astype(np.float16)


def write_masks(folder: Path) -> None:
    """Write masks of one and of three channels."""
    Image.fromarray(pixels()[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels()).save(folder / "rgb.png")


def write_depths(folder: Path) -> None:
    """Write a depth file for each container, in a folder called by its codec."""
    import h5py
    import OpenEXR

    depth = np.random.default_rng(0).uniform(1, 5, HW).astype(np.float32)
    for codec in ("uint16_mm", "float16_bits"):
        _below(folder, codec, "depth.png").write_bytes(_png((depth * 1000).astype(np.uint16)))
    _below(folder, "float32_png_sky_1000", "depth.png").write_bytes(
        _png(np.ascontiguousarray(depth[..., None]).view(np.uint8))
    )
    np.save(_below(folder, "npy", "depth.npy"), depth)
    _below(folder, "pfm", "depth.pfm").write_bytes(b"Pf\n32 24\n-1.0\n" + depth.tobytes())
    channels = {"Y": OpenEXR.Channel(depth)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, channels).write(str(_below(folder, "exr", "depth.exr")))
    for codec, key in (("hdf5_depth", "depth"), ("hdf5_ray", "dataset")):
        with h5py.File(_below(folder, codec, "depth.h5"), "w") as file:
            file.create_dataset(key, data=depth, compression="gzip")
    _below(folder, "raw_float32", "depth.raw").write_bytes(depth.tobytes())


def _below(folder: Path, name: str, file: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name / file


def _png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


def write_videos(folder: Path) -> None:
    """Write short films in several containers."""
    import av

    for name, codec in (("a.mp4", "libx264"), ("b.avi", "mpeg4"), ("c.mkv", "libx264"), ("d.mov", "mjpeg")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width = HW
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for seed in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(seed), format="rgb24")))
            container.mux(stream.encode())


def write_indexes(folder: Path) -> None:
    """Write an index with its files, and copies of it with cells that are empty, unknown or impossible."""
    for number in range(2):
        Image.fromarray(pixels(number)).save(folder / f"{number}.png")
        (folder / f"{number}.depth.png").write_bytes(_png(np.full(HW, 2000, np.uint16)))
    pose = np.tile(np.eye(3, 4), (2, 1, 1))
    record = SequenceRecord(
        dataset="fuzz",
        sequence_id="first",
        root=folder,
        image=("0.png", "1.png"),
        image_size=np.tile(HW, (2, 1)),
        timestamp=np.array([0.0, 1.0]),
        depth=("0.depth.png", "1.depth.png"),
        depth_codec="uint16_mm",
        mask=("0.png", ""),
        mask_rule="below 1",
        camera_model="opencv",
        intrinsics=np.tile([30.0, 30.0, 16.0, 12.0], (2, 1)),
        distortion=np.full((2, 4), 1e-3),
        cam_from_world=pose,
        covisible=np.array([[1], [0]]),
    )
    write_index(folder / "right.parquet", [record, replace(record, sequence_id="second")])
    table = pyarrow.parquet.read_table(folder / "right.parquet")
    for field in table.schema:
        _write_column(folder, table, field, "null", [None, None])
    words = ("", "\0", "x", "../../../../etc/passwd", "\u202e", "x" * 100_000)
    for name in ("camera_model", "depth_codec", "pixel_centre", "mask_rule", "root", "sequence_id"):
        for number, word in enumerate(words):
            _write_column(folder, table, table.schema.field(name), f"word{number}", [word, "y"])
    numbers = {
        "quarter_turns": [-1, 3, 2**31 - 1],
        "num_frames": [0, -1, 3, 2**31 - 1],
        "packed_row": [0, 2**62],
        "depth_scale": [0.0, -1.0, float("nan"), 1e308],
        "max_depth": [-1.0, float("nan")],
        "max_depth_percentile": [-1.0, 101.0],
    }
    lists = {
        "image": [
            [],
            ["0.png"],
            ["\0", "1.png"],
            [None, "1.png"],
            ["/dev/zero", "1.png"],
            ["a.mp4#0", "1.png"],
        ],
        "depth": [["0.png", "1.png"], ["0.depth.png"]],
        "image_size": [[[0, 0], [1, 1]], [[-1, 5], [1, 1]], [[2**31 - 1, 2**31 - 1]] * 2, [[24, 32]]],
        "intrinsics": [[[0.0] * 4] * 2, [[float("nan")] * 4] * 2, [[1e308] * 4] * 2, [[1.0] * 4]],
        "distortion": [[[1.0] * 9] * 2, [[1.0], [1.0, 2.0]], [[float("inf")] * 4] * 2, [[], []]],
        "cam_from_world": [[[0.0] * 12] * 2, [[float("nan")] * 12] * 2, [[1.0] * 12]],
        "timestamp": [[float("nan"), 1.0], [1.0], [1.0, 0.0], [1e308, -1e308]],
        "covisible": [[[5], [-7]], [[], []], [[1]]],
    }
    for name, values in (numbers | lists).items():
        for number, value in enumerate(values):
            cells = [value, table.column(name)[1].as_py()]
            _write_column(folder, table, table.schema.field(name), f"number{number}", cells)


def _write_column(folder: Path, table: pyarrow.Table, field: pyarrow.Field, name: str, cells: list) -> None:
    try:
        column = pyarrow.array(cells, field.type)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):  # not to be said in this type
        return
    place = table.schema.get_field_index(field.name)
    changed = table.set_column(place, pyarrow.field(field.name, field.type), column)
    pyarrow.parquet.write_table(changed, folder / f"wrong_{field.name}_{name}.parquet")


def write_trajectories(folder: Path) -> None:
    """Write trajectories in TUM's and KITTI's format."""
    random = np.random.default_rng(0)
    tum = np.concatenate([np.arange(8.0)[:, None], random.normal(size=(8, 7))], 1)
    kitti = np.concatenate([np.tile(np.eye(3), (8, 1, 1)), random.normal(size=(8, 3, 1))], 2).reshape(8, 12)
    for name in ("right", "other"):
        np.savetxt(folder / f"{name}.tum", tum)
        np.savetxt(folder / f"{name}.txt", kitti)


def write_points(folder: Path) -> None:
    """Write point clouds: our PLY, text, PCD of both kinds."""
    points = np.random.default_rng(0).normal(size=(50, 3))
    write_ply(folder / "binary.ply", points, np.zeros((50, 3), np.uint8), np.ones(50))
    rows = "\n".join(" ".join(f"{number:.4f}" for number in row) for row in points)
    head = "ply\nformat ascii 1.0\nelement vertex 50\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    for name in ("right.ply", "text.ply"):
        (folder / name).write_text(f"{head}end_header\n{rows}\n")
    fields = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 50\nHEIGHT 1\nPOINTS 50\n"
    (folder / "text.pcd").write_text(f"{fields}DATA ascii\n{rows}\n")
    (folder / "binary.pcd").write_bytes(f"{fields}DATA binary\n".encode() + points.astype("<f4").tobytes())


def write_scene(folder: Path) -> None:
    """Write a scene folder with points and depth."""
    scene = write_example_scene(folder / "scene", num_frames=6)
    shutil.rmtree(folder / "images")
    for frame in range(2):
        write_depth(scene, frame, np.ones(HW), np.ones(HW))


def write_checkpoint(folder: Path) -> None:
    """Write the shipped checkpoint, and one that names its shard."""
    for name in ("whole", "shards"):
        shutil.copytree(shipped_folder("assets") / "scal3r-tiny", folder / name)
    (folder / "shards" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors"}}'
    )


def write_torch_files(folder: Path) -> None:
    """Write tensors as torch does, in both formats, and as safetensors."""
    from safetensors.torch import save_file

    state = {"a.weight": torch.zeros(3, 4), "b": torch.ones(2)}
    torch.save(state, folder / "state.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "state.safetensors")


def write_pipes(folder: Path) -> None:
    """Write streams of images, one after the other, as ffmpeg does."""
    for kind in ("PNG", "JPEG", "PPM"):
        stream = io.BytesIO()
        for seed in range(3):
            Image.fromarray(pixels(seed)).save(stream, kind)
        (folder / f"{kind.lower()}.pipe").write_bytes(stream.getvalue())


def four_images(folder: Path) -> SequenceRecord:
    """Return a sequence of four images; none of them is read."""
    return SequenceRecord(
        dataset="images",
        sequence_id="four",
        root=folder,
        image=tuple(f"{number}.png" for number in range(4)),
        image_size=np.tile(HW, (4, 1)),
        timestamp=np.arange(4.0),
    )


def write_times(folder: Path) -> None:
    """Write times of four images, with and without names."""
    (folder / "times.txt").write_text("# seconds\n" + "".join(f"{number}.5\n" for number in range(4)))
    (folder / "rgb.txt").write_text("".join(f"{number}.5 rgb/{number}.png\n" for number in range(4)))


def write_cameras(folder: Path) -> None:
    """Write COLMAP's text files of two cameras and four images."""
    (folder / "cameras.txt").write_text("1 PINHOLE 32 24 30 30 16 12\n2 OPENCV 64 48 60 60 32 24 0 0 0 0\n")
    lines = [f"{number} 1 0 0 0 0 0 0 {number % 2 + 1} {number}.png\n\n" for number in range(4)]
    (folder / "images.txt").write_text("".join(lines))


def write_circuit(folder: Path) -> None:
    """Write the files of a circuit: description, meshes, texture."""
    write_torcs(folder / "torcs")
    for path in (folder / "torcs").rglob("*"):
        if path.suffix in (".xml", ".acc", ".rgb"):
            path.rename(folder / path.name)
    shutil.rmtree(folder / "torcs")
    (folder / "packed.rgb").write_bytes(sgi_bytes(pixels(), is_packed=True))
    corners = np.array([[0.0, 0, 0, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]])
    (folder / "mesh.spm").write_bytes(spm_bytes(corners, [(0, 1, 2)], "road.png", (255, 0, 51)))
