"""What a user would pick instead: other systems run on the sequences of an index, for `kind: external` methods.

    python -m scal3r_eval.external.opencv_odometry INDEX OUT [key=value ...]
    python -m scal3r_eval.external.pycolmap_mapper INDEX OUT [key=value ...]

command.py  -> settings, the loop over sequences, SEQUENCE.tum and SEQUENCE.resources.json in OUT
opencv_odometry.py -> visual odometry from one frame to the next
pycolmap_mapper.py -> COLMAP's incremental mapper
"""
