"""The frames of one video and what the user knows of them. Where to look:

video.py        which frames are used, at which size; their images, masks and known cameras
image_cache.py  decoded images, a bounded number of them, decoded ahead
image_times.py  time stamps from a file
masks.py        which pixels count, from a folder of masks or the index
settings.py     recipe section `input`
"""
