"""Who sees what in which training step.

sources.py       the `data` section of a recipe: indexes, their weights, what a resumed run must find again
curriculum.py    the distributions that a step's shape is drawn from
plan.py          the step plan: which rank trains on which chunks, a pure function
covisibility.py  windows of unordered photographs
deny_list.py     benchmark scenes that training must not see
"""
