"""The objective: every term of the loss, and their mean over all chunks or sequences of a step on any ranks.

Engines (DDP, ZeRO, FSDP2) average gradients over the W ranks of the world. `reduce_terms` therefore scales
this rank's share so that this average is exactly the gradient of the mean over the step's real chunks, or
sequences, however unequal the ranks' shares are (docs/numerics.md#loss-over-ranks):
    "chunk":    loss_rank = W / N * sum over local real chunks of sum_i w_i total_i / count_i
    "sequence": loss_rank = W / S * sum over b of sum_i w_i (local total_ib) / (count_ib of the context group)
N real chunks and S sequences in the step, B sequences b per rank, i terms with weights w_i. A chunk
(sequence) without supervision of a term adds zero to it but is counted in N (S), so that every chunk weighs
the same.
Shapes: T refinement stages, B sequences, K chunks, S frames, H W pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, SerializeAsAny, field_validator
from torch import Tensor

from scal3r_train.config import StrictModel, UserError
from scal3r_train.losses.added import AddedLossSettings, added_terms, heads_taught, read_added_settings
from scal3r_train.losses.camera import CameraLossSettings, camera_terms
from scal3r_train.losses.depth_and_points import (
    DepthLossSettings,
    PointLossSettings,
    depth_terms,
    point_terms,
)
from scal3r_train.losses.motion import MotionLossSettings, motion_terms
from scal3r_train.losses.predictions import Predictions
from scal3r_train.losses.targets import Scope, SumOver, Targets, Unit
from scal3r_train.losses.terms import WeightedTerm


class ObjectiveSettings(StrictModel):
    """The `losses` section of a training recipe."""

    normalization: Unit = Field(
        default="chunk",
        description="whose mean distance is the unit of length; data: what the data come in stays",
    )
    average: Scope = Field(default="chunk", description="what the step's loss is the mean of")
    min_valid_pixels: int = Field(
        default=100,
        ge=1,
        description="chunks with fewer pixels of depth teach rotation and fov only [pixels]",
    )
    camera: CameraLossSettings = CameraLossSettings()
    depth: DepthLossSettings = DepthLossSettings()
    points: PointLossSettings = PointLossSettings()
    motion: MotionLossSettings = MotionLossSettings()
    added: dict[str, SerializeAsAny[AddedLossSettings]] = Field(
        default={}, description="losses of other installed packages, by name, each with its settings"
    )

    @field_validator("added", mode="before")
    @classmethod
    def _each_by_its_own_settings(cls, given: Any) -> Any:
        return read_added_settings(given) if isinstance(given, dict) else given

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that learn from some term, by the names that `Scal3RModel.forward` takes."""
        teaches = {
            "camera": self.camera.teaches,
            "depth": self.depth.teaches,
            "points": self.points.teaches,
        }
        added = heads_taught(self.added)
        return tuple(name for name, does in teaches.items() if does or name in added)


@dataclass(frozen=True)
class RankSums:
    """Sums over the ranks that hold the chunks of a step.

    num_world: their number. over_world and over_group add detached tensors element-wise over these and over
    the ranks of this one's context group, which hold chunks of the same B sequences.
    """

    num_world: int
    over_world: SumOver
    over_group: SumOver


ONE_RANK = RankSums(1, lambda x: x, lambda x: x)


def compute_terms(
    output: Predictions, targets: Targets, settings: ObjectiveSettings
) -> dict[str, WeightedTerm]:
    """All terms of the chunks this rank holds, by the names that logs use.

    Computed in float32 or wider, outside autocast. Heads that gave None and losses without weight are absent,
    so all ranks have the same terms in the same order. Raises UserError when nothing is left.
    """
    terms: dict[str, WeightedTerm] = {}
    with torch.autocast(targets.depth.device.type, enabled=False):
        if output.pose_encoding_stages is not None and settings.camera.teaches:
            terms |= camera_terms(
                output.pose_encoding_stages,
                targets.pose_encoding,
                pose_mask=targets.chunk_mask,
                translation_mask=targets.has_scale,
                settings=settings.camera,
            )
        if output.depth is not None and settings.depth.teaches:
            assert output.depth_conf is not None, "a depth head predicts its confidence"
            terms |= depth_terms(output.depth, output.depth_conf, targets.depth, targets.mask, settings.depth)
        if output.world_points is not None and settings.points.teaches:
            assert output.world_points_conf is not None, "a point head predicts its confidence"
            terms |= point_terms(
                output.world_points,
                output.world_points_conf,
                targets.world_points,
                targets.mask,
                settings.points,
            )
        if output.motion_steps is not None and settings.motion.weight > 0:
            assert output.motion_fov is not None, "an encoder measures all of them"
            assert output.inverse_depth is not None
            assert output.focal_evidence is not None
            terms |= motion_terms(
                output.motion_fov,
                output.motion_steps,
                output.inverse_depth,
                output.focal_evidence,
                targets,
                settings.motion,
            )
        terms |= added_terms(output, targets, settings.added)
    if not terms:
        raise UserError("losses: nothing to learn from; switch a head on whose loss has a weight above 0")
    return terms


def reduce_terms(
    terms: dict[str, WeightedTerm],
    average: Scope,
    chunk_mask: Tensor,
    sums: RankSums,
    num_averaged: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """This rank's loss (a scalar with gradient) and the step's logs: the terms' unweighted means and `loss`.

    The logs are detached scalars, equal on all ranks. chunk_mask [B, K] marks real chunks. Every rank makes the same
    calls: one over the group if the average is "sequence", one over the world for N or S unless num_averaged gives
    it, one over the world for the logs. num_averaged: N or S where the step plan knows it; with gradient accumulation
    their mean over the accumulated micro-steps, whose losses the engine averages.
    """
    names, weighted = list(terms), list(terms.values())
    totals, counts, share = _totals_and_counts(terms, average, chunk_mask, sums.over_group)
    if num_averaged is None:
        num_averaged = sums.over_world(share.double().reshape(1)).clamp(min=1).to(totals.dtype)
    # Counts of 0 come with totals of 0: the quotient is an exact zero that stays attached to the graph.
    means = sums.num_world / num_averaged * (totals / counts.clamp(min=1)).sum(dim=(1, 2))
    loss = torch.stack([entry.weight * mean for entry, mean in zip(weighted, means, strict=True)]).sum()
    logged = sums.over_world(torch.cat([means.detach(), loss.detach().reshape(1)])) / sums.num_world
    return loss, dict(zip([*names, "loss"], logged.unbind(), strict=True))


def rank_loss(
    terms: dict[str, WeightedTerm], average: Scope, chunk_mask: Tensor, sum_over_group: SumOver
) -> tuple[Tensor, Tensor]:
    """This rank's sum of the weighted losses of its chunks (or shares of sequences), and their number.

    Detached float64 scalars. Summed over all ranks, and over many steps, their quotient is the mean that `reduce_terms`
    logs as `loss`. One call over the group if the average is "sequence".
    """
    totals, counts, share = _totals_and_counts(terms, average, chunk_mask, sum_over_group)
    losses = (totals.detach().double() / counts.clamp(min=1)).sum(dim=(1, 2)).unbind()
    weighted = [entry.weight * loss for entry, loss in zip(terms.values(), losses, strict=True)]
    return torch.stack(weighted).sum(), share.double()


def _totals_and_counts(
    terms: dict[str, WeightedTerm], average: Scope, chunk_mask: Tensor, sum_over_group: SumOver
) -> tuple[Tensor, Tensor, Tensor]:
    """Totals of the terms [terms, B, K], what to divide them by, and this rank's chunks or share of sequences."""
    totals = torch.stack([entry.term.total for entry in terms.values()])
    counts = torch.stack([entry.term.count for entry in terms.values()]).detach()
    if average == "chunk":
        return totals, counts, chunk_mask.sum()
    return totals, *counts_of_sequences(counts, sum_over_group)


def counts_of_sequences(counts: Tensor, sum_over_group: SumOver) -> tuple[Tensor, Tensor]:
    """Counts [terms, B, 1] of whole sequences from local counts [terms, B, K], and this rank's share of B.

    A group of g ranks holds the same B sequences, so each of them answers for B / g; the shares of all ranks
    add up to the number of sequences in the step. Counts travel as float64: float32 cannot count beyond 2^24
    elements.
    """
    num_terms, num_sequences = counts.shape[:2]
    local = counts.double().sum(-1)
    summed = sum_over_group(torch.cat([local.flatten(), local.new_ones(1)]))
    share = num_sequences / summed[-1]
    return summed[:-1].reshape(num_terms, num_sequences, 1).to(counts.dtype), share
