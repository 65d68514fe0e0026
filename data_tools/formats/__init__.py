"""What several data sets write alike: tables, JSON, COLMAP models, trajectories, axes. Knows no data set."""
