"""Files made by hand that declare more than they hold, hold more than they should, or point elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

HUGE = 30_000
_NAMES = "abcdefghij"


def alias_bomb(width: int = 9) -> str:
    """Return YAML of some hundred bytes that comes to width^10 values once every alias is written out."""
    lines = [f"a: &a [{','.join('x' * width)}]"]
    lines += [
        f"{name}: &{name} [{','.join([f'*{before}'] * width)}]"
        for before, name in zip(_NAMES, _NAMES[1:], strict=False)
    ]
    return "\n".join(lines)


YAML_BOMBS = (
    alias_bomb(),
    "m: &m0 {k: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{','.join([f'*m{n - 1}'] * 20)}]}}\n" for n in range(1, 9)),
    "seed: " + "[" * 500 + "]" * 500,
    "{a: " * 500,
    "[" * 50_000,
    "%YAML 9.9\n---\nseed: 1\n",
    "%YAML 1.1\n---\nseed: no\n",
    "? [1, 2]\n: 3\n",
    "? {a: 1}\n: 3\n",
    "task: {}\n",
    "task: []\n",
    "task: null\n",
    "a: &x [*x]\n",
    "seed: !!python/object/apply:os.getcwd []\n",
    "seed: !!binary aGk=\n",
    "seed: !!set {a, b}\n",
    "seed: 2020-99-99\n",
    "2020-01-01: 1\n",
    "seed: " + "9" * 5000,
    "seed: 0x" + "f" * 50_000,
    "- " * 3000,
    "a: 1\n" * 3000,
    "seed: [" + "1," * 100_000 + "]",
    "x" * 2_000_000,
    "model: {network: {correlation_stride: 0, patch_encoder: correlation}}\n",
    "extends: recipe.yaml\n",
    "extends: /dev/zero\n",
    "extends: [a]\n",
    "extends: ../../../../etc/passwd\n",
    "\ufeffseed: 1\n",
    "seed: 1\n---\nseed: 2\n",
    "seed: \x01\n",
)  # fmt: skip
JSON_BOMBS = (
    "[" * 100_000,
    '{"a":' * 50_000,
    "[" * 900 + "]" * 900,
    "NaN",
    "Infinity",
    "1e999",
    "9" * 5000,
    '{"frames": ' + "9" * 4000 + "}",
    '"\\ud800"',
    "",
    "null",
    "{}",
    "[]",
    "[null]",
    "[{}]",
    "\ufeff{}",
    '{"a": 1, "a": 2}',
)


def bombs_of(name: str, data: bytes) -> list[bytes]:
    """Return the bombs that a file of this name may be; `data` is a right one."""
    for end, make in _MAKERS.items():
        if name.endswith(end):
            return make(data)
    return []


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Return a PNG file whose header says what it will, around deflated rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def npy(shape: str, dtype: str = "<f4", body: bytes = b"\0" * 64) -> bytes:
    """Return a .npy file whose header says what it will."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def npz(**arrays: bytes) -> bytes:
    """Return a deflated .npz file of the bytes of .npy files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def _pngs(data: bytes) -> list[bytes]:
    return [
        png(HUGE, HUGE, 8, 0, b""),
        png(HUGE, HUGE, 16, 0, b"\0" * 1_000_000),
        png(65_535, 65_535, 8, 6, b""),
        png(20_000, 20_000, 1, 0, b"\0" * (2501 * 20_000)),
        png(2**31 - 1, 1, 8, 2, b"\0"),
        png(0, 0, 8, 2, b""),
    ]


def _jpegs(data: bytes) -> list[bytes]:
    at = next((at for at in range(len(data) - 9) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2)), None)
    if at is None:
        return []
    sizes = [(65_500, 65_500), (0, 0), (1, 65_535), (20_000, 20_000)]
    return [data[: at + 5] + struct.pack(">HH", *size) + data[at + 9 :] for size in sizes]


def _npys(data: bytes) -> list[bytes]:
    shapes = [
        f"({HUGE}, {HUGE})",
        "(1000000000, 1000000000)",
        "(-1, 4)",
        "()",
        "(0, 5)",
        "(2,)",
        "(1" + "," * 400 + ")",
    ]
    made = [npy(shape) for shape in shapes]
    return [
        *made,
        npy("(2, 2)", "|O"),
        npy("(2, 2)", "<M8[s]"),
        npy("(2, 2)", "<U1000000"),
        npy("(4, 4)", "<c16"),
    ]


def _npzs(data: bytes) -> list[bytes]:
    names = (
        "intrinsics",
        "pose",
        "depth",
        "points",
        "camera_intrinsics",
        "camera_pose",
        "cam2world",
        "identity",
    )
    zeros = npy(f"({HUGE}, {HUGE // 10})", body=b"\0" * (40 * HUGE))
    full = npy("(8192, 4096)", body=b"\0" * (4 * 8192 * 4096))
    return [npz(**dict.fromkeys(names, content)) for content in (zeros, full, *_npys(data))]


def _hdf5s(data: bytes) -> list[bytes]:
    fills = (_declared, _external, _links, _virtual, _large_chunk, _other_types, _empty)
    return [_hdf5(fill) for fill in fills]


def _hdf5(fill: Callable[[Any, Any, str], None]) -> bytes:
    """Return an HDF5 file in which both names that depth may have are filled."""
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for key in ("depth", "dataset"):
            fill(h5py, file, key)
    return stream.getvalue()


def _declared(h5py: Any, file: Any, key: str) -> None:
    file.create_dataset(key, (HUGE, HUGE), "f4", chunks=(64, 64), compression="gzip")


def _external(h5py: Any, file: Any, key: str) -> None:
    file.create_dataset(key, (64,), "u1", external=[("/etc/passwd", 0, 64)])


def _links(h5py: Any, file: Any, key: str) -> None:
    file[key] = h5py.ExternalLink("/etc/other.h5", "/depth") if key == "depth" else h5py.SoftLink("/dataset")


def _virtual(h5py: Any, file: Any, key: str) -> None:
    layout = h5py.VirtualLayout((4, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "depth", (4, 4))
    file.create_virtual_dataset(key, layout)


def _large_chunk(h5py: Any, file: Any, key: str) -> None:
    file.create_dataset(key, (8, 8), "f4", maxshape=(None, None), chunks=(HUGE, HUGE // 2))


def _other_types(h5py: Any, file: Any, key: str) -> None:
    file[key] = "text" if key == "depth" else np.zeros(4, [("a", "f4")])


def _empty(h5py: Any, file: Any, key: str) -> None:
    file[key] = h5py.Empty("f4") if key == "depth" else 3.0


def _exrs(data: bytes) -> list[bytes]:
    at = data.find(b"dataWindow\0box2i\0") + 21
    boxes = [(0, 0, 59_999, 59_999), (0, 0, -1, -1), (-(2**31), 0, 2**31 - 1, 9), (5, 5, 4, 4)]
    return [data[:at] + struct.pack("<4i", *box) + data[at + 16 :] for box in boxes]


def _pfms(data: bytes) -> list[bytes]:
    sizes = [b"30000 30000", b"-8 -8", b"0 0", b"1e3 4", b"99999999999999999999 1", b"", b"8"]
    return [b"Pf\n" + size + b"\n-1.0\n" + b"\0" * 256 for size in sizes]


def _plys(data: bytes) -> list[bytes]:
    counts = [b"10000000000", b"-5", b"0", b"1e9", b"9" * 30]
    return [_replaced_count(data, count) for count in counts] + [
        data.replace(b"float x", b"list uchar int x")
    ]


def _replaced_count(data: bytes, count: bytes) -> bytes:
    start = data.find(b"element vertex ") + 15
    return data[:start] + count + data[data.find(b"\n", start) :]


def _safetensors(data: bytes) -> list[bytes]:
    def made(header: bytes, length: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * 64

    entry = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 64]}
    tensors = [{"a": entry}, {"a": entry | {"shape": [-1]}}, {"a": entry | {"dtype": "F4"}}, {"a": 3}, {}]
    made_up = [made(json.dumps(one).encode()) for one in tensors]
    return [*made_up, made(b"{}", 2**63), made(b"[" * 5000), made(b"{}", 10**9)]


def _gzips(data: bytes) -> list[bytes]:
    return [gzip.compress(b"[" + b" " * 50_000_000), gzip.compress(b"[" * 100_000), data[: len(data) // 2]]


def _images_bin(data: bytes) -> list[bytes]:
    image = struct.pack("<I7dI", 1, 1, 0, 0, 0, 0, 0, 0, 1) + b"a.png\0"
    return [
        struct.pack("<Q", 2**64 - 1) + image + struct.pack("<Q", 2**64 - 1),
        struct.pack("<Q", 2) + image + struct.pack("<Q", 2**61),
        struct.pack("<Q", 1) + image[:-1] + b"x" * 100_000,
    ]


def _cameras_bin(data: bytes) -> list[bytes]:
    cameras = [(1, 1, 0, 0), (1, 1, 2**63, 2**63), (1, 99, 4, 4), (1, -1, 4, 4)]
    tail = struct.pack("<4d", 0, -1, float("nan"), 1e300)
    return [struct.pack("<Q", 2**60) + struct.pack("<IiQQ", *camera) + tail for camera in cameras]


_MAKERS: dict[str, Callable[[bytes], list[bytes]]] = {
    ".png": _pngs,
    ".jpg": _jpegs,
    ".jpeg": _jpegs,
    ".npy": _npys,
    ".npz": _npzs,
    ".h5": _hdf5s,
    ".hdf5": _hdf5s,
    ".exr": _exrs,
    ".pfm": _pfms,
    ".ply": _plys,
    ".safetensors": _safetensors,
    ".jgz": _gzips,
    ".gz": _gzips,
    "images.bin": _images_bin,
    "cameras.bin": _cameras_bin,
}
