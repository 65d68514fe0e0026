"""A scene in the formats of other programs: `scal3r export` (docs/export.md). Where to look:

export_scene.py  the command, and the list of formats
options.py       what a user may choose
source.py        the scene that is exported; PLY
kept_points.py   which points stay
images.py        names of the input images, and the images themselves
output.py        the file or folder that is written
colmap.py        COLMAP's sparse model
refine.py        COLMAP's model after bundle adjustment; bundle_adjustment.py, view_pairs.py, pinhole_errors.py serve it
nerfstudio.py    transforms.json
placed_points.py coordinates of surveying programs: UTM, or the scene's with z up
las.py           LAS and LAZ
e57.py           E57
gaussians.py     a start for Gaussian splatting, with its data set
glb.py           binary glTF
trajectory.py    TUM and KITTI
"""
