"""Recorded tensors that the code reproduces."""
