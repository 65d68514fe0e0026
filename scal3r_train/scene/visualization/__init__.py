"""Looking at a scene: the report and the viewer."""
