"""Derived files for sets whose pixels must change first; the data sets' own files stay as they are.

scannet_pp.py         depth rendered from the mesh
mesh_depth.py         the z-buffer that does it
oxford_spires.py      depth projected from laser scans
aria_digital_twin.py  recordings unpacked
"""
