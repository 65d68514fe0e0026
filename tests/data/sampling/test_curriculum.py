"""Stages of a curriculum: which distributions a step has, in optimizer steps, and which stages are refused."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from scal3r_train.config import dump_yaml, load_config
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.plan import Source, plan_step

SOURCES = [Source("towns", 1.0, np.array([400, 900, 500, 800]))]
BASE: dict[str, Any] = {"chunk_size": {4: 1}, "overlap": {1: 1}, "stride": {1: 1}}
STAGES: list[dict[str, Any]] = [
    {"until": 10, "group_size": {1: 1}, "sequences_per_group": 2},
    {"until": 30, "group_size": {4: 1}, "chunk_size": {8: 1}, "overlap": {6: 1}, "chunks_per_rank": {2: 1}},
    {"stride": {3: 1}, "resolution": [{"height": 28, "width": 42}]},
]
STAGED = CurriculumSettings(**BASE, stages=STAGES)


def drawn(curriculum: CurriculumSettings, step: int) -> tuple[int, ...]:
    """What a plan of four ranks shows of the distributions that it was drawn from."""
    plan = plan_step(curriculum, SOURCES, 0, step, 4)
    shape = plan.shape
    return (
        *(len(plan.groups[0].ranks), len(plan.groups[0].windows), shape.chunks_per_rank),
        *(shape.chunk_size, shape.overlap, plan.groups[0].windows[0].stride, shape.resolution.height),
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, (1, 2, 1, 4, 1, 1, 56)),
        (9, (1, 2, 1, 4, 1, 1, 56)),
        (10, (4, 1, 2, 8, 6, 1, 56)),
        (29, (4, 1, 2, 8, 6, 1, 56)),
        (30, (1, 1, 1, 4, 1, 3, 28)),
        (10**9, (1, 1, 1, 4, 1, 3, 28)),
    ],
)
def test_a_stage_holds_until_its_step_and_inherits_what_it_does_not_say(
    step: int, expected: tuple[int, ...]
) -> None:
    assert drawn(STAGED, step) == expected


def test_a_stage_plans_as_a_curriculum_without_stages_does() -> None:
    """Stages choose distributions and touch nothing else of the draw."""
    second = CurriculumSettings(
        **BASE | {"group_size": {4: 1}, "chunk_size": {8: 1}, "overlap": {6: 1}, "chunks_per_rank": {2: 1}}
    )
    for step in range(10, 30):
        assert plan_step(STAGED, SOURCES, 5, step, 8) == plan_step(second, SOURCES, 5, step, 8)


@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_stages_count_optimizer_steps(accumulation_steps: int) -> None:
    """A plan's number is step * accumulation + place: all plans of an optimizer step belong to its stage."""
    curriculum = STAGED.in_plans(accumulation_steps)
    for step in (0, 9, 10, 29, 30, 31):
        plans = range(step * accumulation_steps, (step + 1) * accumulation_steps)
        assert {drawn(curriculum, plan) for plan in plans} == {drawn(STAGED, step)}


def test_shares_within_a_stage_follow_its_weights() -> None:
    curriculum = CurriculumSettings(**BASE, stages=[{"until": 2000, "chunk_size": {4: 1, 8: 3}}, {}])
    sizes = Counter(plan_step(curriculum, SOURCES, 0, step, 1).shape.chunk_size for step in range(3000))
    assert sizes[8] / 2000 == pytest.approx(0.75, abs=0.04)  # four standard deviations of 2,000 draws
    assert sizes[4] + sizes[8] == 3000


def test_every_stage_is_listed_for_those_who_check() -> None:
    assert [settings.resolution[0].height for settings in STAGED.every_stage()] == [56, 56, 28]
    plain = CurriculumSettings(**BASE)
    assert plain.every_stage() == (plain,)
    assert plain.at(7) == plain
    assert plain.in_plans(4) == plain


def test_stages_survive_the_resolved_recipe(tmp_path: Any) -> None:
    """Written with all defaults and read back, a stage still inherits."""
    path = tmp_path / "curriculum.yaml"
    path.write_text(dump_yaml(STAGED))
    assert load_config(CurriculumSettings, path) == STAGED
    moved = load_config(CurriculumSettings, path, ["stages.0.until=12", "overlap={2: 1}"])
    assert drawn(moved, 11) == (1, 2, 1, 4, 2, 1, 56)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"until": 5}], "stages.0.until = 5: the last stage has no end; leave it out"),
        ([{}, {}], "stages.0 needs `until`, the step at which stage 1 begins"),
        ([{"until": 5}, {"until": 5}, {}], "stages.1.until = 5: it must be above 5"),
        ([{"until": 5}, {"until": 4}, {}], "stages.1.until = 4: it must be above 5"),
        ([{"until": 0}, {}], "greater than or equal to 1"),
        ([{"group_size": {3: 1}}], "stages.0: group_size 3 is no power of two"),
        ([{"until": 5}, {"overlap": {4: 1}}], "stages.1: overlap 4 must be below every chunk_size (4)"),
        ([{"chunk_size": {1: 1}}], "stages.0: overlap 1 must be below every chunk_size (1)"),
        ([{"stride": {2: 0}}], "stages.0: stride needs at least one value with a positive weight"),
        ([{"resolution": []}], "at least 1 item"),
        ([{"colour_jitter": 0.1}], "Extra inputs are not permitted"),
    ],
)
def test_contradictory_stages_are_refused(stages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CurriculumSettings(**BASE, stages=stages)
    assert message in str(caught.value)
