"""Parts of the adapter for images with a file of poses (`adapters/posed.py`), each finding and reading one thing.

options.py      what files are called otherwise, and what they do not say
pictures.py     the images, and the depth maps and masks that belong to them
times.py        when they were taken
trajectory.py   where the poses are, and which image has which
calibration.py  focal lengths and principal points in the images' own pixels
"""
