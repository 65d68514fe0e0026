"""Indexing, preparing, checking, previewing and making data (import name scal3r_data_tools; docs/data/README.md).

One file a command: index.py, prepare.py, check.py, preview.py, summary.py, pack.py, synth.py. Below them:

    registry.py      the data sets that are known, by name
    adapters/        one file a data set
    preparing/       derived files for the few sets that need them
    formats/         what several data sets write alike
    checking/        the parts of `scal3r data check`
    previewing/      the parts of `scal3r data preview`
    dataset_card.py  the README.md of a packed data set
    covisibility.py  which frames of an unordered scene see the same
    jobs.py          progress bar, and work in several processes
"""
