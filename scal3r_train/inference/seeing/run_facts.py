"""What a scene is, what to look at twice, and how it was made: time, memory, states, recipe, checkpoint."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML

from scal3r_train.inference.scene import Scene
from scal3r_train.inference.seeing.ground_truth import GroundTruth
from scal3r_train.inference.seeing.html import Html, facts, joined, number, table, tag

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
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel annotates it as None
    stream = io.StringIO()
    yaml.dump(settings, stream)
    return tag("details", tag("summary", name), tag("pre", stream.getvalue()))


def _state(key: str, value: Any) -> str:
    if key.endswith("bytes") or key.startswith("bytes"):
        return f"{value / MIB:,.1f} MiB" if isinstance(value, int | float) else "-"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _some(items: Any) -> str:
    """Return the first few of some items."""
    return ", ".join(map(str, items[:MAX_NAMED])) + (", ..." if len(items) > MAX_NAMED else "")
