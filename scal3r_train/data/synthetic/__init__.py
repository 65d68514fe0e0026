"""Procedural towns with exact images, depth and cameras."""
