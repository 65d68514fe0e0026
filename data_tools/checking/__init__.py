"""The parts of `scal3r data check`: what is measured, which mistakes are tried, and how they are judged.

examine.py     one sequence, from its record to its report
files.py       its files and numbers, one by one
evidence.py    what pixels and depth show: pairs of frames, matches, sampled depth
matches.py     matching of image features
readings.py    what the numbers are taken to mean: as given, and with each usual mistake undone
scores.py      how far matches are from where a reading puts them
depth_warp.py  how well the depth maps of two frames agree under a reading
fits.py        mistakes with a number in them: scale, focal lengths, principal point
judge.py       the verdict
report.py      report.html and report.json
"""
