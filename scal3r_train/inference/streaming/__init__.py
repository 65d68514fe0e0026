"""Reconstruction while images arrive: `--follow` (docs/follow.md). Where to look:

reconstruct_stream.py  the loop: new images, next chunk, new scene, until the stream ends
stream_end.py          why a stream ends, and the signals that ask for it
frame_folder.py        a folder that images are being written into: which of them are complete
image_pipe.py          images through a pipe, cut apart and written into such a folder
incremental_scene.py   the scene, extended by one chunk at a time
settings.py            recipe section `follow`
"""
