"""What is measured, without other processes; the only files are trajectories (TUM, KITTI)."""
