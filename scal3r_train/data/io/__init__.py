"""From bytes of files to pixels and metres.

frame_io.py          frames of a sequence: pixels, depth and a camera that fit together
frame_files.py       bytes of the files that an index names, single or packed into Parquet
frame_cache.py       a local copy of frames, for data on slow or remote storage
image_codec.py       image and mask files
images_in_memory.py  pictures that are in memory already: Pillow's, arrays, tensors
depth_codec.py       depth files of every kind
video_frames.py      single frames of video files
point_file.py        positions from PLY and PCD files
declared_size.py     limits of what a header may declare, before memory is taken
numpy_files.py       arrays from .npy and .npz files
hdf5_file.py         arrays from HDF5 files
reading_process.py   the processes that read training data ahead
"""
