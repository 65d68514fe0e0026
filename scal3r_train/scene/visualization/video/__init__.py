"""`scal3r render`: a scene as a video (docs/viewing.md). Where to look:

render_video.py    the command: frame after frame, from scene to file
options.py         what a user may choose
observer_paths.py  where the observer is, and when which frame of the scene is now
splatting.py       points as discs, fast
overlay.py         path, cameras, truth and the input image on top
video_file.py      mp4 and the like by PyAV, gif and webp by Pillow
"""
