"""Training losses: sums and counts per chunk, so that any spread of chunks over ranks gives the same mean."""
