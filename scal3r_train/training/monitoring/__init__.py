"""What a run measures and where it reports it."""
