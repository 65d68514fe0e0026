"""Lenses, and what resizing and cropping do to a camera.

camera_model.py  lens distortion of every camera model, and COLMAP's models in terms of ours
rectify.py       undoing lens distortion
resize.py        resizing and cropping of images, depth and intrinsics
"""
