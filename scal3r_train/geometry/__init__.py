"""Cameras, pose encodings, point maps and similarity transforms; no model, no files.

camera.py         extrinsics, intrinsics, projection and unprojection
pose_encoding.py  the nine numbers of the camera head
sim3.py           similarity transforms, one or many
sim3_fit.py       fitting them to corresponding points
sim3_tangent.py   their tangent space: Exp, Log, adjoint, Jacobians
drawing.py        a small renderer of cameras and points for previews
"""
