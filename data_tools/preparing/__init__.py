"""Derived files for sets whose pixels must change first: meshes rendered, scans projected, recordings unpacked."""
