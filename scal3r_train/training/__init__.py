"""The training loop and its parts.

recipe.py       the recipe of a training run
trainer.py      the loop
resume.py       where a run begins
run_summary.py  what it says at its start and end
step.py         one optimizer step
data_faults.py  other windows in place of unreadable ones
validation.py   held-out windows, and the guard that stops a bad run
best_so_far.py  the best validation, and runs that get no better
optim.py        optimizer and learning rates
freezing.py     what is trained
agreement.py    all ranks were given the same
stop.py         requests to save and stop
progress.py     counters of a run
checkpointing/  checkpoints, averages, exported models
monitoring/     what a run measures
"""
