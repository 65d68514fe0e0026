"""Sequences: index rows, frames on disk, resizing, procedural towns, the step plan and the dataset."""
