"""Procedural towns with exact images, depth and cameras.

settings.py  settings, and black-outs: frames that show nothing
path.py      the path of the camera
layout.py    where houses, trees, poles and hedges stand
render.py    ray casting and colours
town.py      the town that these make: images, depth, intrinsics and poses
"""
