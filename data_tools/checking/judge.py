"""The verdict on one sequence: fine, a named mistake, wrong without explanation, or undecidable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scal3r_data_tools.checking.depth_warp import warp_errors
from scal3r_data_tools.checking.fits import ZOOM, focal_hypotheses, length_hypothesis, zoom_hypothesis
from scal3r_data_tools.checking.readings import (
    Hypothesis,
    Reading,
    depth_hypotheses,
    intrinsics_hypotheses,
    pose_hypotheses,
)
from scal3r_data_tools.checking.scores import (
    WARP_POINTS,
    Comparison,
    Material,
    Scores,
    compare,
    noise,
    score,
    typical,
)

MIN_PAIRS = 3
EXPLAINS = 0.6  # errors fall to less than this share
NOT_WORSE = 1.15
SIGNIFICANT = 3.0  # standard errors
SAME = 1.35  # errors that rise by less say nothing against a reading
NEAR = 0.12  # logarithm of errors that count as the same
MAX_WARPED = 12
AT_NOISE = 1 / EXPLAINS  # so near the noise that nothing could explain more
EPIPOLAR_SHARE, REPROJECTION_SHARE = (
    0.006,
    0.02,
)  # of the long side: beyond, data are wrong even if nothing explains it
MAX_WARP = 0.025
MAX_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """The judgement, the errors it rests on, and what was tried.

    keys: of the mistakes that explain the data, several when they cannot be told apart; text: one line, "" when the
    data are fine; best: the reading that undoes the first; is_decidable: whether there was enough to judge.
    """

    keys: tuple[str, ...]
    text: str
    given: Scores
    is_decidable: bool
    best: Reading | None = None
    indistinct: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    hypothesis: Hypothesis
    reading: Reading
    scores: Scores
    against_given: dict[str, Comparison]


def judge(given: Reading, material: Material, *, codec: str, is_ordered: bool) -> Verdict:
    """Compare the given reading with all others."""
    level, scores = noise(given, material), score(given, material)
    enough = any(np.isfinite(values).sum() >= MIN_PAIRS for values in scores.values())
    if not enough and not (material.warp_pairs or material.evidence.num_pairs):
        return Verdict((), "", scores, is_decidable=False)
    hypotheses = [*pose_hypotheses(is_ordered=is_ordered), *intrinsics_hypotheses(given)]
    if material.warp_pairs or material.evidence.has_depth:
        hypotheses += depth_hypotheses()

    def try_all(some: Sequence[Hypothesis]) -> list[_Candidate]:
        found = [_candidate(one, given, material, scores, level) for one in some]
        return _warped(found, material, scores, level)

    unit = length_hypothesis(given, material.evidence, codec) if material.evidence.has_depth else None
    tried = try_all([one for one in hypotheses if one.cost == 1] + ([unit] if unit is not None else []))
    is_settled = _is_at_noise(scores, level) or any(
        _explains(one.against_given) and _is_at_noise(one.scores, level) for one in tried
    )
    if not is_settled:  # rarer and fitted mistakes take longer
        zoom = zoom_hypothesis(given, material.evidence, level) if is_ordered else None
        others = [one for one in hypotheses if one.cost > 1]
        others += focal_hypotheses(given, material, level) + ([zoom] if zoom is not None else [])
        found = try_all(others)
        tried += found + try_all(_with_lengths([*tried, *found], material, codec))
    explaining = [one for one in tried if _explains(one.against_given)]
    if explaining:
        return _named(explaining, scores, level, enough)
    same = tuple(
        one.hypothesis.text
        for one in tried
        if one.hypothesis.cost == 1 and one.hypothesis.key != ZOOM and _is_same(one.against_given)
    )
    text = _beyond_bounds(given, scores, material)
    return Verdict((), text, scores, is_decidable=enough, indistinct=same)


def _with_lengths(tried: Sequence[_Candidate], material: Material, codec: str) -> list[Hypothesis]:
    """The same readings with lengths made to fit the depth."""
    found = []
    for one in tried if material.evidence.has_depth else ():
        comparison = one.against_given.get("epipolar")
        is_better = comparison is not None and comparison.ratio < 1
        if is_better and one.hypothesis.cost < 3 and one.hypothesis.key != "unit":
            found.append(length_hypothesis(one.reading, material.evidence, codec, one.hypothesis))
    return [one for one in found if one is not None]


def _candidate(
    hypothesis: Hypothesis, given: Reading, material: Material, scores: Scores, level: Scores
) -> _Candidate:
    reading = hypothesis.apply(given)
    found = score(reading, material, with_warp=False)
    return _Candidate(hypothesis, reading, found, compare(found, scores, level))


def _warped(
    candidates: Sequence[_Candidate], material: Material, scores: Scores, level: Scores
) -> list[_Candidate]:
    """The same with their depth warped, which is slow, where matches leave it open that they explain the data."""
    if "warp" not in scores:
        return list(candidates)
    by_matches = sorted(candidates, key=lambda one: _total(one.against_given))
    open_ones = [one for one in by_matches if _is_open(one)]
    about_depth = [one for one in open_ones if one.hypothesis.about_depth]
    has_matches = any(_counted(one.against_given) for one in candidates)
    chosen = [*open_ones[:MAX_WARPED], *about_depth] if has_matches else open_ones
    picked = {id(one) for one in chosen}
    result = []
    for one in candidates:
        if id(one) in picked:
            errors = warp_errors(one.reading, material.views, material.warp_pairs, WARP_POINTS)
            found = one.scores | {"warp": errors}
            one = replace(one, scores=found, against_given=compare(found, scores, level))
        result.append(one)
    return result


def _is_open(one: _Candidate) -> bool:
    ratios = [comparison.ratio for comparison in _counted(one.against_given)]
    return not ratios or max(ratios) < SAME


def _counted(comparisons: dict[str, Comparison]) -> list[Comparison]:
    return [one for one in comparisons.values() if one.num_pairs >= MIN_PAIRS]


def _explains(comparisons: dict[str, Comparison]) -> bool:
    """Whether errors of some kind fall clearly, and none rise."""
    counted = _counted(comparisons)
    falls = any(one.ratio < EXPLAINS and np.log(one.ratio) < -SIGNIFICANT * one.log_error for one in counted)
    return falls and all(one.ratio < NOT_WORSE for one in counted)


def _is_same(comparisons: dict[str, Comparison]) -> bool:
    counted = _counted(comparisons)
    return bool(counted) and all(EXPLAINS < one.ratio < SAME for one in counted)


def _is_at_noise(scores: Scores, level: Scores) -> bool:
    return all(
        not np.isfinite(values).any() or typical((values + level[kind]) / level[kind]) < AT_NOISE
        for kind, values in scores.items()
    )


def _total(comparisons: dict[str, Comparison]) -> float:
    return sum(float(np.log(one.ratio)) for one in comparisons.values())


def _named(explaining: list[_Candidate], scores: Scores, level: Scores, enough: bool) -> Verdict:  # noqa: FBT001
    best = min(explaining, key=lambda one: _total(one.against_given))
    # a second mistake is believed only where it explains clearly more than the first alone
    enough_said = [one for one in explaining if not _explains(compare(best.scores, one.scores, level))]
    cost = min(one.hypothesis.cost for one in enough_said)
    usual = sorted(
        (one for one in enough_said if one.hypothesis.cost == cost),
        key=lambda one: _total(one.against_given),
    )
    chosen = [
        one
        for one in usual
        if all(
            np.log(comparison.ratio) < max(NEAR, 2 * comparison.log_error)
            for comparison in compare(one.scores, usual[0].scores, level).values()
        )
    ]
    texts = list(dict.fromkeys(one.hypothesis.text for one in chosen))
    text = texts[0]
    if len(texts) > 1:
        more = f" or {len(texts) - MAX_NAMED} others" if len(texts) > MAX_NAMED else ""
        text = "cannot be told apart: " + "; or ".join(texts[:MAX_NAMED]) + more
    return Verdict(
        tuple(dict.fromkeys(one.hypothesis.key for one in chosen)), text, scores, True, chosen[0].reading
    )


def _beyond_bounds(given: Reading, scores: Scores, material: Material) -> str:
    side = float(given.image_size.max())
    found = []
    noise_px = float(np.median(material.evidence.noise)) if material.evidence.num_pairs else 0.0
    for kind, bound in (
        ("epipolar", max(EPIPOLAR_SHARE * side, 4 * noise_px)),
        ("reprojection", max(REPROJECTION_SHARE * side, 8 * noise_px)),
        ("warp", MAX_WARP),
    ):
        values = scores.get(kind)
        if values is not None and np.isfinite(values).sum() >= MIN_PAIRS and typical(values) > bound:
            found.append(f"{kind} {typical(values):.3g}")
    return f"data disagree and no usual mistake explains it: {', '.join(found)}" if found else ""
