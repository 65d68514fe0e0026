"""The parts of the picture that `scal3r data preview` draws.

block.py         one sequence: its tiles, put together
shown_frames.py  its frames, read as training would
colours.py       depth as colours and over the image
cloud.py         its point cloud
canvas.py        text, tiles, boxes
"""
