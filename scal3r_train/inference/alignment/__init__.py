"""Seams between neighbouring chunks, chunks placed in one world, overlaps fused."""
