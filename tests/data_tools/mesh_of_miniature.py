"""The miniature's room and boxes as triangles."""

from pathlib import Path

import numpy as np

from tests.data_tools.miniature import BOXES, ROOM

QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def mesh() -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and faces [F, 3]."""
    vertices, faces = [], []
    for low, high in (ROOM, *BOXES):
        base = len(vertices)
        vertices += [np.where([i & 4, i & 2, i & 1], high, low) for i in range(8)]
        for a, b, c, d in QUADS:
            faces += [(base + a, base + b, base + c), (base + a, base + c, base + d)]
    return np.array(vertices), np.array(faces)


def write_ply(path: Path, new_from_world: np.ndarray) -> None:
    """Binary PLY with colours, as ScanNet++ publishes meshes, in another world frame [4, 4]."""
    vertices, faces = mesh()
    moved = vertices @ new_from_world[:3, :3].T + new_from_world[:3, 3]
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(moved)}\nproperty float x\nproperty float y\n"
        "property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    vertex = np.zeros(len(moved), np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))
    vertex["xyz"] = moved
    face = np.zeros(len(faces), np.dtype([("num", "u1"), ("corners", "<i4", 3)]))
    face["num"], face["corners"] = 3, faces
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + vertex.tobytes() + face.tobytes())
