"""How neighbouring chunks are joined into one world. Where to look:

seam.py             the similarity between two neighbouring chunks, scale included, from the frames they share
camera_seam.py      the same from cameras alone, where no pixel is valid in both chunks
seam_wander.py      how much the parts of an overlap disagree on their seam
run_noise.py        what the seams of a run say about the errors of its chunks
seam_covariance.py  how far a seam can be wrong
chunk_geometry.py   what of a chunk's prediction alignment uses
neighbours.py       the seams of all chunks that one process holds
placement.py        from seams to where every chunk lies in the world
placed_frames.py    frames of a chunk moved into the world
fusion.py           two chunks' predictions of an overlap frame made one
settings.py         recipe sections `alignment` and `fusion`, and how noisy a seam is
"""
