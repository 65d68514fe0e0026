"""The memory study: does the memory learn what a chunk alone cannot know, and does that hold for longer sequences?

__main__.py      `python -m scal3r_eval.study RECIPE`: all stages
settings.py      its recipe, and where it keeps what
prepare.py       makes sequences and trains
drives.py        drives of an index, such as circuits, with hidden pictures
held_out.py      held-out sequences: pictures, truth, hidden chunks
predict.py       predictions with a shared, separate or frozen memory
chunk_errors.py  errors of single chunks, and guesses that bound them
scoring.py       scores of all models on all held-out sequences
summary.py       results.json and results.md
compare.py       whether two studies agree
"""
