"""Cameras, pose encodings, point maps and similarity transforms; torch only, no model, no files."""
