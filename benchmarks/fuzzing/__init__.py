"""What benchmarks/fuzz.py consists of.

trial.py    one input read in a child process with limits, and the verdict
edits.py    hypothesis strategies: edits of bytes, text, trees of values, names of settings
bombs.py    files made by hand that declare more than they hold, or hold more than they should
kinds.py    the kinds of input: what is edited, and the command or function that reads it
"""
