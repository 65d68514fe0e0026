"""What is measured, by one process; the only files are trajectories (TUM, KITTI).

trajectory.py     all errors of a camera path: ATE, RPE, KITTI's segments, AUC
relative_pose.py  the errors of pairs of poses that it is made of
trajectory_io.py  TUM and KITTI files, and matching two trajectories
points.py         accuracy, completeness, Chamfer, F1 of a point cloud
icp.py            refining an alignment by the clouds
voxel_means.py    voxel downsampling of clouds before they are scored
depth.py          AbsRel, delta thresholds, RMSE of depth
"""
