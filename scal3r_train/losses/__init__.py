"""Training losses: sums and counts per chunk, so that any spread of chunks over ranks gives the same mean.

    targets.py           ground truth in the form and unit that the model predicts
    camera.py            L1 on the pose encoding
    depth_and_points.py  depth map and point map: residuals, confidence, gradients, normals
    predictions.py       what losses read of the model's output
    terms.py             what a loss returns: a `WeightedTerm` of sums and counts per chunk
    objective.py         all terms of a step and their mean over ranks
    added.py             losses of other installed packages

To add a loss here: write a function that returns named `WeightedTerm`s (terms.py; depth_and_points.py is an example)
with its settings beside it, add both to `ObjectiveSettings` and `compute_terms` (objective.py), name it in
docs/training.md. To add one without changing this package: docs/extending/loss.md.
"""
