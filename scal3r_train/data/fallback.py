"""Another window in place of one that cannot be read: a pure function, so that all ranks take the same one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from scal3r_train.data.curriculum import CurriculumSettings
from scal3r_train.data.plan import GroupPlan, Source, StepPlan, Window, draw_window

MAX_DRAWS = 100


def fallback_window(
    settings: CurriculumSettings,
    sources: Sequence[Source],
    seed: int,
    plan: StepPlan,
    group: GroupPlan,
    place: int,
    attempt: int,
    avoided: Collection[tuple[int, int]],
) -> Window:
    """Return a window of the same shape as `group.windows[place]`, drawn like it from the whole mixture.

    It depends on the arguments only and not on what was read before, so that a resumed run draws it again.

    Args:
        settings: curriculum of the plan.
        sources: the mixture.
        seed: of the run.
        plan: of the step.
        group: the context group, as planned.
        place: which of its windows.
        attempt: 1 for the first window in its place, 2 for the next.
        avoided: (source, row) of the sequences not wanted again; one of them comes back where there is no other.
    """
    assert attempt >= 1, "trailing zeros would not change the generator's seed, and the plan has [seed, step]"
    generator = np.random.default_rng([seed, plan.step, group.ranks.start, place, attempt])
    num_chunks = len(group.ranks) * plan.shape.chunks_per_rank
    for _ in range(MAX_DRAWS):
        window = draw_window(
            sources, plan.shape, num_chunks, group.windows[place].stride, settings, generator
        )
        if (window.source, window.row) not in avoided:
            break
    return window
