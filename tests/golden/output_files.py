"""What is kept of the files that a command writes: hashes of their content, and numbers where they are few.

Left out are paths, dates and versions, so that the same content has the same hash in any folder. Files are read
here by their documented formats, not by the library.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

PLY_TYPES = {"float": "<f4", "double": "<f8", "uchar": "u1"}
GLB_HEADER_BYTES, GLB_CHUNK_HEADER_BYTES = 12, 8
NOT_CONTENT = ("file_path", "generator")  # keys of JSON in exports
EXPORT_NOTE = "scal3r_export.json"  # says when, by which version and from which folder


def sha256_of_weights(path: Path) -> str:
    """Return the hash of a safetensors file's tensors in the order of their names: name, dtype, shape, bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def steps_of(run: Path, *names: str) -> dict[str, list[float]]:
    """Return values of every training step from metrics.jsonl, in full precision."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1)), "not every step was logged"
    return {name: [line[name] for line in steps] for name in names}


def table(path: Path) -> list[list[float]]:
    """Return the numbers of a text file whose comments begin with #."""
    rows: list[list[float]] = np.loadtxt(path, ndmin=2).tolist()
    return rows


def split_ply(path: Path) -> tuple[list[str], bytes]:
    """Return a binary PLY's header without comments, and what follows it."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    return [line for line in header.decode().splitlines() if not line.startswith("comment")], body


def point_statistics(path: Path) -> dict[str, Any]:
    """Return how many points a PLY holds, and mean and standard deviation of each property."""
    header, body = split_ply(path)
    properties = [line.split()[1:] for line in header if line.startswith("property")]
    points = np.frombuffer(body, [(name, PLY_TYPES[kind]) for kind, name in properties])
    columns = [points[name].astype(np.float64) for _, name in properties]
    return {
        "point_count": len(points),
        "point_mean": [float(column.mean()) for column in columns],
        "point_std": [float(column.std()) for column in columns],
    }


def export_hashes(path: Path) -> dict[str, str]:
    """Return the hash of each file of an export, which is a file or a folder, by name."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {
        file.name: sha256_of_content(file) for file in files if file.is_file() and file.name != EXPORT_NOTE
    }


def sha256_of_content(path: Path) -> str:
    """Return the hash of a file's content without what names paths, dates or versions."""
    content = path.read_bytes()
    if path.suffix == ".ply":
        header, body = split_ply(path)
        content = "\n".join(header).encode() + body
    elif path.suffix == ".json":
        content = _stable_json(content)
    elif path.suffix == ".glb":
        content = _stable_glb(content)
    return hashlib.sha256(content).hexdigest()


def _stable_glb(content: bytes) -> bytes:
    """Return a GLB's scene description without its generator, then its binary part."""
    (length,) = struct.unpack_from("<I", content, GLB_HEADER_BYTES)
    start = GLB_HEADER_BYTES + GLB_CHUNK_HEADER_BYTES
    return _stable_json(content[start : start + length]) + content[start + length :]


def _stable_json(content: bytes) -> bytes:
    """Return JSON with sorted keys, without the entries that are not content."""

    def kept(entry: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entry.items() if key not in NOT_CONTENT}

    return json.dumps(json.loads(content, object_hook=kept), sort_keys=True).encode()
