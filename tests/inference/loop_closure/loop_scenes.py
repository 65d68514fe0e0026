"""Three sequences with known loops, and the ways in which a network may be fooled about them.

`Scene.true_pairs` are frames that show one place. `fooled_edges` are joint predictions of a network that is sure and
wrong: each window fits its chunk as well as any, and the two lie wrongly to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from scal3r_train.inference.chunking import chunk_ranges
from tests.inference.loop_closure.street_grid import street_grid
from tests.inference.loop_closure.truth_chunks import Drive, Errors, Truth, drive, read_kitchen, read_truth

MOST_PAIRS = 6


@dataclass(frozen=True)
class Scene:
    """A sequence, how it is cut, and what "the same place" means in it.

    Attributes:
        name: of the sequence.
        read: returns it.
        chunk_size, overlap, half_window: frames of a chunk, shared by neighbours, of half a loop window.
        min_gap: frames between the two frames of a loop, at least.
        near, near_deg: distance in metres and angle of two cameras that see one place; smaller ones trade off.
        radius: frames on either side of a chosen frame from which no other pair is taken.
        elsewhere: least distance in metres of a place that looks alike and is another.
        shift: metres by which a fooled network slips along the street.
    """

    name: str
    read: Callable[[], Truth]
    chunk_size: int
    overlap: int
    half_window: int
    min_gap: int
    near: float
    near_deg: float
    radius: int
    elsewhere: float
    shift: float

    @cached_property
    def truth(self) -> Truth:
        """The sequence, read once."""
        return self.read()

    def drive(self, errors: Errors, seed: int = 0) -> Drive:
        """All chunks and seams under some errors."""
        return drive(self.truth, errors, self.chunk_size, self.overlap, self.half_window, seed)

    @cached_property
    def true_pairs(self) -> list[tuple[int, int]]:
        """At most MOST_PAIRS loops, the closest cameras first."""
        distance, angle = _apart(self.truth)
        cost = distance / self.near + angle / self.near_deg
        return self._best(cost, 1.0, MOST_PAIRS)

    @cached_property
    def look_alikes(self) -> list[tuple[int, int]]:
        """At most two pairs of places side by side that are seen in the same direction, the nearest ones first."""
        distance, angle = _apart(self.truth)
        centres, forward = self.truth.world_from_cam[:, :, 3], self.truth.world_from_cam[:, :, 2]
        ahead = ((centres[None] - centres[:, None]) * forward[:, None]).sum(dim=2).abs()
        cost = distance + 2 * ahead
        cost[(distance < self.elsewhere) | (angle > self.near_deg)] = math.inf
        return self._best(cost, math.inf, 2)

    def _best(self, cost: Tensor, limit: float, most: int) -> list[tuple[int, int]]:
        """Pairs (earlier, later) of least cost below the limit, from disjoint chunks, each apart from the others."""
        num, half = len(cost), self.half_window
        ranges = chunk_ranges(num, self.chunk_size, self.overlap)
        frames = torch.arange(num)
        chunk = torch.full((num,), -1)
        for k in reversed(range(len(ranges))):
            chunk[ranges[k].start + half : ranges[k].stop - half + 1] = k
        starts, stops = (torch.tensor([getattr(r, name) for r in ranges]) for name in ("start", "stop"))
        allowed = (
            (frames[None] - frames[:, None] >= self.min_gap) & (chunk >= 0)[None] & (chunk >= 0)[:, None]
        )
        allowed &= stops[chunk][:, None] <= starts[chunk][None]
        cost = torch.where(allowed, cost, math.inf)
        pairs: list[tuple[int, int]] = []
        while len(pairs) < most:
            place = int(cost.argmin())
            pair = (place // num, place % num)
            if not float(cost[pair]) < limit:
                break
            pairs.append(pair)
            for frame in pair:
                near = (frames - frame).abs() <= self.radius
                cost[near], cost[:, near] = math.inf, math.inf
        return pairs


def _apart(truth: Truth) -> tuple[Tensor, Tensor]:
    """Distances in metres and angles in degrees of all cameras, [S, S]."""
    centres, forward = truth.world_from_cam[:, :, 3], truth.world_from_cam[:, :, 2]
    return torch.cdist(centres, centres), torch.rad2deg(torch.arccos((forward @ forward.T).clamp(-1, 1)))


@dataclass(frozen=True)
class Fooled:
    """A wrong joint prediction: of which frames, and where and how large it takes the second window to be."""

    kind: str
    pair: tuple[int, int]
    moved: Tensor
    factor: float = 1.0


def fooled_predictions(scene: Scene, whole: Drive) -> list[Fooled]:
    """Every kind of wrong joint prediction; of kind `street like it` there are two that agree with each other."""
    first, second = scene.true_pairs[0]
    here = whole.truth.world_from_cam[second]
    axes, centre = here[:, :3], here[:, 3]

    def turned(local: Tensor) -> Tensor:
        """world_from_world that turns about the second camera by a rotation in its axes."""
        rotation = axes @ local @ axes.T
        return torch.cat([rotation, (centre - rotation @ centre)[:, None]], dim=1)

    along = torch.eye(4, dtype=torch.float64)[:3].clone()
    along[:, 3] = scene.shift * axes[:, 2]
    still = torch.eye(4, dtype=torch.float64)[:3]
    half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    far = (first, (first + second) // 2)
    return [
        *(Fooled("street like it", pair, whole.onto(*pair)) for pair in scene.look_alikes),
        Fooled("opposite way", (first, second), turned(half_turn)),
        Fooled("along the street", (first, second), along),
        Fooled("wrong scale", (first, second), still, factor=1.5),
        Fooled("somewhere else", far, whole.onto(*far)),
    ]


def scenes(data: Path) -> list[Scene]:
    """The three sequences; `data` holds game_loop and seven_scenes_kitchen."""
    return [
        Scene("game_loop", lambda: read_truth(data / "game_loop", 14), 60, 30, 10, 200, 10, 40, 20, 30, 15),
        Scene(
            "kitchen",
            lambda: read_kitchen(data / "seven_scenes_kitchen", 20),
            20,
            10,
            5,
            30,
            0.4,
            35,
            8,
            0.6,
            0.4,
        ),
        Scene("streets", street_grid, 40, 20, 8, 60, 4, 30, 16, 30, 13.6),
    ]
