"""What several data sets write alike; it knows no data set.

files.py        finding folders and files
text.py         tables of numbers
json_files.py   JSON, whole or entry by entry
reading.py      what wrong content ends in becomes a line that names the file
yaml_files.py   YAML, OpenCV's too
poses.py        axes, quaternions, trajectories with times
camera_npz.py   cameras in .npz files (DUSt3R, CUT3R)
colmap.py       COLMAP's models
aria.py         lens and poses of Project Aria's glasses
point_cloud.py  large point clouds in pieces
optional.py     packages that only some sets need
"""
