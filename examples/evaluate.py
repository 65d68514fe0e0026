"""How far reconstructed paths are from the true ones, and from the guess that the camera drove straight on.

    scal3r data synth towns num_sequences=4 height=48 width=72
    python examples/evaluate.py towns/index.parquet scal3r-tiny

`scal3r eval` does this for whole benchmarks, with confidence intervals, points, depth and reports (docs/evaluation.md).
"""

import sys

from scal3r_eval.baselines import straight_line
from scal3r_train import reconstruct
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import true_world_from_cam
from scal3r_train.metrics.trajectory import TrajectoryScore, score_trajectory


def main(index: str, model: str = "scal3r-tiny") -> dict[str, TrajectoryScore]:
    """Reconstruct every sequence of an index, print and return how good its trajectory is."""
    scores = {}
    sequences = load_index(index)
    for number in range(len(sequences)):
        record = sequences[number]
        truth = true_world_from_cam(record)
        score = score_trajectory(reconstruct(record, model).world_from_cam, truth)
        guess = score_trajectory(straight_line(truth), truth)
        print(f"{record.sequence_id}: ATE {score.ate_rmse_m:.2f} m on {score.path_length_m:.0f} m", end="")
        print(f" (driving straight on: {guess.ate_rmse_m:.2f} m); AUC@30 {score.auc_30:.2f}")
        scores[record.sequence_id] = score
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
