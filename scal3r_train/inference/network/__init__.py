"""Chunks through the network, segment by segment, and where their state waits between two segments."""
