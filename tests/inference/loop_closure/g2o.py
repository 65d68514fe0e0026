"""A small reader of SE(3) pose graphs in g2o's text format (VERTEX_SE3:QUAT, EDGE_SE3:QUAT)."""

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.inference.loop_closure.pose_graph import PoseEdges


def read_g2o(path: Path) -> tuple[Sim3Batch, PoseEdges]:
    """Nodes (initial guess) and edges; rotation information is taken to be that of the rotation vector."""
    vertices, ends, measured, information = {}, [], [], []
    for line in path.read_text(encoding="ascii").splitlines():
        kind, *numbers = line.split()
        if kind == "VERTEX_SE3:QUAT":
            vertices[int(numbers[0])] = [float(number) for number in numbers[1:8]]
        elif kind == "EDGE_SE3:QUAT":
            ends.append([int(numbers[0]), int(numbers[1])])
            measured.append([float(number) for number in numbers[2:9]])
            upper = np.zeros((6, 6))
            upper[np.triu_indices(6)] = [float(number) for number in numbers[9:30]]
            information.append(upper + np.triu(upper, 1).T)
    assert sorted(vertices) == list(range(len(vertices)))
    i, j = torch.tensor(ends).unbind(1)
    nodes = _poses([vertices[number] for number in range(len(vertices))])
    robust = torch.zeros(len(ends), dtype=torch.bool)
    return nodes, PoseEdges(i, j, _poses(measured), torch.from_numpy(np.stack(information)), robust)


def _poses(rows: list[list[float]]) -> Sim3Batch:
    """Poses of rows x y z qx qy qz qw."""
    table = np.array(rows)
    rotation = torch.from_numpy(Rotation.from_quat(table[:, 3:]).as_matrix())
    return Sim3Batch(
        torch.ones(len(table), dtype=torch.float64), rotation, torch.from_numpy(table[:, :3].copy())
    )
