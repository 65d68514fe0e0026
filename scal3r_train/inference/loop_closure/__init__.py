"""Places seen twice: candidates, joint predictions, verdicts and the pose graph."""
