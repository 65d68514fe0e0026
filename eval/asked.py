"""Which measures a method must have on a sequence: where it lacks one it has failed, also when nobody else has it."""

from __future__ import annotations

from collections.abc import Iterable

from scal3r_eval.measures import DEPTH, POINTS, POSES
from scal3r_eval.methods import Run
from scal3r_eval.recipe import EvalRecipe, Scal3RMethod
from scal3r_eval.sequences import EvalSequence
from scal3r_eval.summary import Asked
from scal3r_train.metrics.kitti_segments import SEGMENT_LENGTHS_M

OVER_SEGMENTS = ("rre_deg_per_100m", "rte_m_per_100m")


def asked_measures(runs: Iterable[Run], sequences: Iterable[EvalSequence], recipe: EvalRecipe) -> Asked:
    """Return by method and by sequence the keys of the measures that must be there.

    Every method has poses, with KITTI's errors where the true path is long enough to have any; ours also have points
    and depth where the protocol compares them and the sequence has true depth.
    """
    sequences = list(sequences)
    return {
        run.method: {sequence.name: _asked(run, sequence, recipe) for sequence in sequences} for run in runs
    }


def _asked(run: Run, sequence: EvalSequence, recipe: EvalRecipe) -> frozenset[str]:
    length = sequence.path_length_m
    poses = [one.key for one in POSES if one.key not in OVER_SEGMENTS or length > SEGMENT_LENGTHS_M[0]]
    if length == 0:
        poses.remove("ate_percent")
    if not isinstance(run.settings, Scal3RMethod) or not sequence.record.depth:
        return frozenset(poses)
    points = POINTS if recipe.protocol.points is not None else ()
    depth = DEPTH if recipe.protocol.depth is not None else ()
    return frozenset((*poses, *(one.key for one in (*points, *depth))))
