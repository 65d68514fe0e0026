"""The release's chain of rules once more, slow and plain: numpy in float64, no line shared with the pipeline.

Only the network is ours: the forward pass of training, all chunks at once, which knows no schedule. From what it
predicts to the last camera every step is written out from the description of the release: thumbnails, windows, points,
five Huber rounds, the chain or the pose graph, the provider of each frame.

Shapes: S frames, H W pixels, N points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.linalg import expm, logm
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from scal3r_train.model.modeling_scal3r import Scal3RModel

Array = np.ndarray
DELTA, ROUNDS, STOP = 0.1, 5, 1e-9


@dataclass
class PlainChunk:
    """Frames, cam_from_chunk R [S, 3, 3] and t [S, 3], K [S, 3, 3], depth and confidence [S, H, W]."""

    frames: list[int]
    rotation: Array
    translation: Array
    intrinsics: Array
    depth: Array
    confidence: Array

    def points(self, place: int) -> Array:
        """Points [H W, 3] of a frame in the chunk's coordinates."""
        height, width = self.depth.shape[1:]
        rows, columns = np.mgrid[:height, :width] + 0.5
        pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3)
        in_camera = pixels @ np.linalg.inv(self.intrinsics[place]).T * self.depth[place].reshape(-1, 1)
        return np.asarray((in_camera - self.translation[place]) @ self.rotation[place])


@dataclass
class PlainScene:
    """World_from_cam [S, 4, 4] with the chunk's scale in the 3 x 3 block, K, scaled depth, and the pairs of loops."""

    c2w: Array
    intrinsics: Array
    depth: Array
    loops: list[tuple[int, int]]


def plain_release(
    model: Scal3RModel, images: torch.Tensor, size: int, overlap: int, *, loops: bool
) -> PlainScene:
    """Return what the release makes of images [S, 3, H, W] uint8, in chunks of `size` that share `overlap`."""
    num = len(images)
    count = max(1, math.ceil((num - overlap) / (size - overlap)))
    starts = [k * (size - overlap) for k in range(count)]
    frames = [list(range(start, min(start + size, num))) for start in starts]
    pairs = thumbnail_pairs(images) if loops else []
    windows = []
    for pair in pairs:
        a, c = (max(k for k in range(count) if starts[k] <= frame) for frame in pair)
        if a != c:
            windows.append((a, c, window(pair[0], frames[a]) + window(pair[1], frames[c])))
    chunks = predict(model, images, [*frames, *(both for _, _, both in windows)])
    seams = [align(chunks[k], chunks[k + 1]) for k in range(count - 1)]
    world = [np.eye(4)]
    for seam in seams:
        world.append(world[-1] @ seam)
    if windows:
        edges = []
        for (a, c, _), loop in zip(windows, chunks[count:], strict=True):
            edges.append((a, c, align(chunks[c], loop) @ np.linalg.inv(align(chunks[a], loop))))
        world = pose_graph(world, seams, edges)
    c2w, intrinsics, depth = [], [], []
    for frame in range(num):
        k = max([k for k in range(1, count) if frame >= starts[k] + overlap // 2], default=0)
        place = frame - starts[k]
        cam = np.eye(4)
        cam[:3, :3], cam[:3, 3] = chunks[k].rotation[place], chunks[k].translation[place]
        c2w.append(world[k] @ np.linalg.inv(cam))
        intrinsics.append(chunks[k].intrinsics[place])
        depth.append(chunks[k].depth[place] * np.cbrt(np.linalg.det(world[k][:3, :3])))
    return PlainScene(np.stack(c2w), np.stack(intrinsics), np.stack(depth), pairs)


def predict(model: Scal3RModel, images: torch.Tensor, chunks: Sequence[list[int]]) -> list[PlainChunk]:
    """Return the prediction of every chunk, whose memories all of them write to."""
    with torch.no_grad():
        found = model([[images[frames].float() / 255 for frames in chunks]])
    height, width = images.shape[-2:]
    result = []
    for number, frames in enumerate(chunks):
        pose = found.pose_encoding[0][number].double().numpy()
        intrinsics = np.zeros((len(frames), 3, 3))
        intrinsics[:, 0, 0] = width / 2 / np.tan(pose[:, 8] / 2)
        intrinsics[:, 1, 1] = height / 2 / np.tan(pose[:, 7] / 2)
        intrinsics[:, :, 2] = [width / 2, height / 2, 1]
        result.append(
            PlainChunk(
                frames,
                Rotation.from_quat(pose[:, 3:7]).as_matrix(),
                pose[:, :3],
                intrinsics,
                found.depth[0][number].double().numpy().reshape(len(frames), height, width),
                found.depth_conf[0][number].double().numpy(),
            )
        )
    return result


def thumbnail_pairs(images: torch.Tensor) -> list[tuple[int, int]]:
    """Return the loops that grey thumbnails show, best first, the earlier frame first."""
    rows = []
    for image in images:
        grey = cv2.cvtColor(np.ascontiguousarray(image.movedim(0, -1).numpy()), cv2.COLOR_RGB2GRAY)
        row = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).reshape(-1).astype(np.float64)
        rows.append((row - row.mean()) / np.linalg.norm(row - row.mean()))
    similarity = np.stack(rows) @ np.stack(rows).T
    found = {}
    for i, row in enumerate(similarity):
        for j in np.argsort(-row)[1:6]:
            if row[j] > 0.92 and abs(i - j) > 10:
                found[min(i, int(j)), max(i, int(j))] = row[j]
    chosen: list[tuple[int, int]] = []
    for pair in sorted(found, key=lambda pair: -found[pair]):
        if all(abs(end - other) > 25 for end in pair for earlier in chosen for other in earlier):
            chosen.append(pair)
    return chosen


def window(frame: int, chunk: list[int]) -> list[int]:
    """Return the frames of a chunk around one of them."""
    first, stop = chunk[0], chunk[-1] + 1
    if frame - 10 < first:
        return list(range(first, min(stop, first + 20)))
    if frame + 10 > stop:
        return list(range(max(first, stop - 20), stop))
    return list(range(frame - 10, frame + 10))


def align(earlier: PlainChunk, later: PlainChunk) -> Array:
    """Return earlier_from_later, 4 x 4, by the pixels of the frames that both hold."""
    x, y, weights = [], [], []
    for place, frame in enumerate(later.frames):
        if frame in earlier.frames:
            other = earlier.frames.index(frame)
            x.append(later.points(place))
            y.append(earlier.points(other))
            weights.append(np.sqrt(later.confidence[place] * earlier.confidence[other]).reshape(-1))
    source, target, confidence = np.concatenate(x), np.concatenate(y), np.concatenate(weights)
    estimate, last_cost = closed_form(source, target, confidence), math.inf
    for _ in range(ROUNDS):
        scale, rotation, translation = estimate
        residual = np.linalg.norm(target - scale * source @ rotation.T - translation, axis=1)
        new = closed_form(source, target, confidence * np.minimum(1, DELTA / np.maximum(residual, 1e-30)))
        huber = np.where(residual <= DELTA, residual**2 / 2, DELTA * (residual - DELTA / 2))
        cost = float((confidence * huber).sum())
        moved = abs(new[0] - scale) + np.linalg.norm(new[2] - translation)
        turned = np.degrees(np.arccos(np.clip((np.trace(new[1] @ rotation.T) - 1) / 2, -1, 1)))
        if (moved < STOP and turned < 0.1) or abs(last_cost - cost) < STOP * last_cost:
            break
        estimate, last_cost = new, cost
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = estimate[0] * estimate[1], estimate[2]
    return matrix


def closed_form(source: Array, target: Array, weights: Array) -> tuple[float, Array, Array]:
    """Return scale, rotation and translation of least squares; the scale is the ratio of rms radii."""
    share = (weights / weights.sum())[:, None]
    source_mean, target_mean = (share * source).sum(0), (share * target).sum(0)
    x, y = source - source_mean, target - target_mean
    scale = math.sqrt((share * y**2).sum() / (share * x**2).sum())
    u, _, vt = np.linalg.svd((share * scale * x).T @ y)
    if np.linalg.det(vt.T @ u.T) < 0:
        vt[2] *= -1
    rotation = vt.T @ u.T
    return scale, rotation, target_mean - scale * rotation @ source_mean


def pose_graph(world: list[Array], seams: list[Array], edges: list[tuple[int, int, Array]]) -> list[Array]:
    """Return the poses of least squares, unit weights: Log(Z T_(k+1)^-1 T_k) of seams, Log(S T_a^-1 T_c) of loops."""

    def moved(x: Array) -> list[Array]:
        steps = zip(world[1:], x.reshape(-1, 7), strict=True)
        return [world[0], *(pose @ expm(generator(step)) for pose, step in steps)]

    def residuals(x: Array) -> Array:
        poses = moved(x)
        rows = [seam @ np.linalg.inv(poses[k + 1]) @ poses[k] for k, seam in enumerate(seams)]
        rows += [measured @ np.linalg.inv(poses[a]) @ poses[c] for a, c, measured in edges]
        return np.concatenate([tangent(row) for row in rows])

    found = least_squares(residuals, np.zeros(7 * len(seams)), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    return moved(found.x)


def generator(x: Array) -> Array:
    """Return the 4 x 4 matrix of tau, phi, sigma whose exponential is the similarity."""
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = np.cross(np.eye(3), -x[3:6]) + x[6] * np.eye(3)
    matrix[:3, 3] = x[:3]
    return matrix


def tangent(similarity: Array) -> Array:
    """Return tau, phi, sigma of a 4 x 4 similarity."""
    matrix = np.real(logm(similarity))
    return np.array([*matrix[:3, 3], matrix[2, 1], matrix[0, 2], matrix[1, 0], np.trace(matrix[:3, :3]) / 3])
