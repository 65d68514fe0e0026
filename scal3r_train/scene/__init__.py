"""The result on disk: a scene folder, written, read, exported and looked at. Where to look:

scene.py        what a scene is; its files written and read
folder.py       the folder while a run writes into it, and how it takes the place of an older one
ply.py          points.ply, whole or in blocks
point_cloud.py  points, and how they are thinned to one per voxel
export/         formats of other programs
visualization/  report and viewer
"""
