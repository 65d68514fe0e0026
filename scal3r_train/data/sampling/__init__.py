"""Who sees what in which training step."""
