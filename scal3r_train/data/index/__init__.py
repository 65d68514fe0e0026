"""Indexes: Parquet files whose rows name sequences and where their files lie.

index.py   write, open and sum up an index
source.py  what a user may give as input: an image folder, a video, one sequence of an index, or images in memory
"""
