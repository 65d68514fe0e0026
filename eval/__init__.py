"""Benchmarks: what is measured and how (import name scal3r_eval; docs/evaluation.md).

`scal3r eval` is pipeline.py, whose two stages work sequence by sequence:

    recipe.py                 what to evaluate: benchmark, frames, protocol, methods
    sequences.py              its sequences: found or made, frames chosen and checked
    methods.py                the runs of a method, and what each of them claims about a sequence
    baselines.py              trajectories that anyone can guess
    predict_sequence.py       first stage: a scene folder
    score_sequence.py         second stage: scores.json
    score_sequence_points.py  its points, and a picture of their errors
    truth_cloud.py            the true points it compares with
    summary.py                means over sequences, failures counted
    bootstrap.py              intervals of means
    measures.py               names, units and digits of measures
    results.py                scores.json and results.json
    report/                   report.html, report.md, report.tex

Apart from that:

    score_trajectory.py  `scal3r score trajectory`: two files
    score_points.py      `scal3r score points`: two clouds
    point_source.py      what a cloud can be read from
    demo.py              `make demo`
    study/               the memory study (docs/study.md)
    subprocesses.py      running commands of the project
    code_identity.py     which code computed a result
"""
