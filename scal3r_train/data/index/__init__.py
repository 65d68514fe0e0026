"""Indexes: Parquet files whose rows name sequences and where their files lie.

index.py   write, open and sum up an index
source.py  what a user may name as input: an image folder, a video, or one sequence of an index
"""
