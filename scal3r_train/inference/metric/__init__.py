"""Metres from outside: no network knows them (docs/metric_scale.md). Where to look:

sources.py         the source that a recipe names, opened and checked before the work
gps_file.py        GPS tracks of all kinds
track.py           positions in metres, and to which frame each belongs
track_fit.py       the similarity from a scene to a track, its scale's error, the place on the Earth
track_graph.py     a GPS track as measurements of the chunks' places
camera_height.py   the ground below the cameras
sensor_depth.py    depth maps of a sensor beside the predicted ones
jackknife.py       how sure an estimate from correlated measurements is
chunk_cameras.py   cameras of all chunks, and where a placement puts them
scale_drift.py     how far scale may drift along the seams
frame_measurements.py  what each process measures in its chunks
measure.py         from predictions and a source to a placement in metres
"""
