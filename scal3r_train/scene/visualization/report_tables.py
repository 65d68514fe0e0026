"""The report's header, warnings and tables: what a scene is, its seams and loops, and how it was made."""

from __future__ import annotations

from typing import Any

from scal3r_train.config import dump_mapping
from scal3r_train.scene.scene import Scene
from scal3r_train.scene.visualization.charts import bars
from scal3r_train.scene.visualization.ground_truth import GroundTruth
from scal3r_train.scene.visualization.html import Html, facts, joined, number, table, tag

MIB = 1 << 20
MAX_NAMED = 12


def header(scene: Scene, name: str, truth: GroundTruth | None) -> Html:
    """Return the name and the most important numbers."""
    info = scene.info
    centres = scene.world_from_cam[:, :, 3]
    steps = (centres[1:] - centres[:-1]).norm(dim=-1)
    torn = [info.provided_frames[n][0] - 1 for n in info.breaks if 0 < n < len(info.provided_frames)]
    length = float(steps.sum()) - sum(float(steps[place]) for place in torn)
    trusted = sum(bool(seam.get("trusted")) for seam in info.seams)
    accepted = sum(bool(loop.get("accepted")) for loop in info.loops)
    height, width = info.processed_hw
    listed: list[tuple[str, str]] = [
        ("frames", number(info.num_frames)),
        ("points", number(info.num_points)),
        ("chunks", number(len(info.chunks))),
        ("seams trusted", f"{trusted} of {len(info.seams)}" if info.seams else "-"),
        ("loops accepted", f"{accepted} of {len(info.loops)}" if info.loops else "-"),
        (f"path length in {info.units}", number(length)),
        ("processed at", f"{width} x {height}"),
        ("time", duration(sum(info.timings_s.values()))),
    ]
    if truth is not None:
        listed.append(("ATE against ground truth", f"{truth.score.ate_rmse_m:.4g} m"))
        if truth.score.ate_percent is not None:
            listed.append(("ATE of the path", f"{truth.score.ate_percent:.3g} %"))
    made = f"Made {info.created} by scal3r {info.code_version} from {info.input.get('root', 'an unknown folder')}"
    parts = [tag("h1", name), tag("p", made, class_="faint"), facts(listed)]
    if truth is not None:
        parts.append(tag("p", f"Ground truth {truth.source}: {truth.line}.", class_="faint"))
    return joined(parts)


def warnings(scene: Scene) -> Html | None:
    """Return what the user should look at twice; None when there is nothing."""
    info = scene.info
    found = []
    if info.breaks:
        found.append(
            f"The trajectory is torn before chunk {_some(info.breaks)}: "
            "nothing is known of how the parts lie to each other."
        )
    doubtful = [place + 1 for place, seam in enumerate(info.seams) if not seam.get("trusted")]
    if doubtful:
        found.append(
            f"{len(doubtful)} of {len(info.seams)} seams are not trusted: before chunk {_some(doubtful)}."
        )
    if info.input.get("complete") is False:
        found.append("The input was still growing when this was written.")
    if left_out := info.input.get("left_out"):
        found.append(f"{len(left_out)} files were passed over: {_some(left_out)}.")
    return tag("ul", *(tag("li", text) for text in found), class_="warnings") if found else None


def run_section(scene: Scene) -> Html:
    """Return times, memory, states, recipe and checkpoint."""
    info = scene.info
    total = max(sum(info.timings_s.values()), 1e-9)
    times = [
        (
            name,
            duration(seconds),
            f"{seconds / total:.0%}",
            f"{1e3 * seconds / max(info.num_frames, 1):.3g} ms",
        )
        for name, seconds in info.timings_s.items()
    ]
    memory = [(kind, f"{size / MIB:,.0f} MiB") for kind, size in info.peak_memory_bytes.items()]
    memory.append(("processes", str(info.num_processes)))
    states = [(key.replace("_", " "), _state(key, value)) for key, value in info.state_plan.items()]
    parts = [
        tag("h2", "Run"),
        table(("stage", "time", "share", "a frame"), times),
        tag("p", "Peak memory of any process", class_="faint"),
        facts(memory),
    ]
    if states:
        parts += [tag("p", "Where the states of the chunks were kept", class_="faint"), facts(states)]
    settings = [("units", info.units), ("scale from", info.scale_source), ("world", info.world_frame)]
    return joined(
        [
            *parts,
            facts([*settings, ("voxel size", number(info.voxel_size))]),
            tag(
                "p",
                "Checkpoint SHA-256: ",
                tag("code", info.checkpoint_sha256 or "not known"),
                class_="faint",
            ),
            _details("Recipe", info.recipe),
            _details("Input", info.input),
        ]
    )


def duration(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _details(name: str, settings: dict[str, Any]) -> Html:
    """Return settings as YAML that unfolds."""
    return tag("details", tag("summary", name), tag("pre", dump_mapping(settings)))


def _state(key: str, value: Any) -> str:
    if key.endswith("bytes") or key.startswith("bytes"):
        return f"{value / MIB:,.1f} MiB" if isinstance(value, int | float) else "-"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _some(items: Any) -> str:
    """Return the first few of some items."""
    return ", ".join(map(str, items[:MAX_NAMED])) + (", ..." if len(items) > MAX_NAMED else "")


MAX_ROWS = 60


def seams_section(scene: Scene) -> Html | None:
    """Return how well each chunk joins the one before it; None for a single chunk."""
    seams = scene.info.seams
    if not seams:
        return None
    trusted = [bool(seam.get("trusted")) for seam in seams]
    doubtful = [place for place, good in enumerate(trusted) if not good]
    text = (
        "Every chunk is predicted in its own frame and scale and joined to the one before it. Residuals are relative "
        "to the scene's scale at the seam; seams in red are not trusted."
    )
    diagrams = [
        bars(_column(seams, "residual_median"), trusted, "median residual", is_log=True),
        bars(_column(seams, "inlier_share"), trusted, "share of points that fit", limits=(0.0, 1.0)),
        bars(
            _column(seams, "scale"),
            trusted,
            "scale of the chunk relative to the one before",
            is_log=True,
            base=1.0,
        ),
    ]
    head = (
        "before chunk",
        "frame",
        "method",
        "verdict",
        "median residual",
        "rms",
        "inliers",
        "scale",
        "points",
        "reason",
    )
    shown = doubtful or list(range(len(seams)))
    rows = [_seam_row(scene, place) for place in shown[:MAX_ROWS]]
    name = (
        f"{len(doubtful)} seams that are not trusted" if doubtful else f"all {len(seams)} seams, all trusted"
    )
    if len(shown) > MAX_ROWS:
        name += f", the first {MAX_ROWS} (all: scene.json)"
    listing = tag("details", tag("summary", name), table(head, rows))
    return joined([tag("h2", "Seams"), tag("p", text, class_="faint"), *diagrams, listing])


def loops_section(scene: Scene) -> Html | None:
    """Return all candidates of loop closure with their verdicts; None when there were none."""
    loops = scene.info.loops
    if not loops:
        return None
    order = sorted(loops, key=lambda loop: not loop.get("accepted"))
    head = ("frames", "chunks", "similarity", "verdict", "reason", "scale ratio", "deviation", "weight")
    rows = [
        (
            _pair(loop.get("frames")),
            _pair(loop.get("chunks")),
            number(loop.get("similarity"), 3),
            verdict(bool(loop.get("accepted")), "accepted", "rejected"),
            str(loop.get("reason", "")),
            number(loop.get("scale_ratio"), 4),
            number(loop.get("chain_deviation"), 3),
            number(loop.get("weight"), 3),
        )
        for loop in order[:MAX_ROWS]
    ]
    parts = [tag("h2", "Loops"), table(head, rows)]
    if len(loops) > MAX_ROWS:
        parts.append(
            tag("p", f"The first {MAX_ROWS} of {len(loops)}; all are in scene.json.", class_="faint")
        )
    if scene.info.pose_graph:
        parts.append(
            facts((key.replace("_", " "), _plain(value)) for key, value in scene.info.pose_graph.items())
        )
    return joined(parts)


def verdict(is_good: bool, good: str, bad: str) -> Html:  # noqa: FBT001
    """Return a word in its colour."""
    return tag("span", good if is_good else bad, class_=f"mark {'good' if is_good else 'bad'}")


def _column(seams: tuple[dict[str, Any], ...], key: str) -> list[float | None]:
    return [seam.get(key) for seam in seams]


def _seam_row(scene: Scene, place: int) -> tuple[Html | str, ...]:
    """Return the row of one seam."""
    seam = scene.info.seams[place]
    return (
        str(place + 1),
        str(scene.info.provided_frames[place + 1][0]),
        str(seam.get("method", "")),
        verdict(bool(seam.get("trusted")), "trusted", "not trusted"),
        number(seam.get("residual_median"), 3),
        number(seam.get("residual_rms"), 3),
        "-" if seam.get("inlier_share") is None else f"{seam['inlier_share']:.0%}",
        number(seam.get("scale"), 4),
        number(seam.get("num_points")),
        str(seam.get("reason") or ""),
    )


def _pair(numbers: Any) -> str:
    return "-" if not numbers else " - ".join(map(str, numbers))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) or value is None else str(value)
