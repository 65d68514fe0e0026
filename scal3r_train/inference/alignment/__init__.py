"""How neighbouring chunks are joined into one world. Where to look:

seam.py             the similarity between two neighbouring chunks, scale included, from the frames they share
correspondences.py  the pixels that both chunks saw
point_seam.py       the similarity that these show, and how sure it is
point_noise.py      how noisy points are at each depth
camera_seam.py      the similarity that the cameras of shared frames show
seam_wander.py      how much the parts of an overlap disagree on their seam
run_noise.py        what the seams of a run say about the errors of its chunks
seam_covariance.py  how far a seam can be wrong
chunk_scales.py     how large every chunk is, by its seams and by what all chunks have in common
scale_spread.py     the estimate of that
chunk_geometry.py   what of a chunk's prediction alignment uses
neighbours.py       the seams of all chunks that one process holds
placement.py        from seams to where every chunk lies in the world
placed_frames.py    frames of a chunk moved into the world
fusion.py           two chunks' predictions of an overlap frame made one
settings.py         recipe sections `alignment` and `fusion`, and how noisy a seam is
"""
