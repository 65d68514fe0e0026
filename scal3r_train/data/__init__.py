"""Data of a run: from rows of an index to the chunks that a training step or a reconstruction sees.

sequence.py       the three forms of a sequence: index row, frames in memory, training batch
dataset.py        the data set of a training run: the chunks of a step on this rank
window.py         the frames of one training window, decoded, cropped and coloured
augmentation.py   zoom and colours of a window
sampling/         who sees what in which training step: sources, curriculum, step plan
index/            Parquet indexes, and what a user may name as input
io/               bytes of files to pixels and metres
camera/           lens models, rectification, resizing and cropping
known_cameras.py  `input.intrinsics`: what the user knows about the cameras, put into a sequence
synthetic/        procedural towns
"""
