"""The README.md of a packed data set: what it holds, under which licence, how to load it; text from its index.

The head is what the Hugging Face hub reads: its viewer shows the frames, one row each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import datasets
from huggingface_hub import DatasetCardData

from scal3r_train.data.index.index import SequenceIndex, summarize

TASKS = ("depth-estimation", "image-to-3d")
TAGS = ("scal3r", "camera-poses", "video")
# Upper ends of the hub's classes of sizes.
SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}
# Licences by the hub's names, of those that data sets of this kind have; others are "other".
LICENCES = frozenset(
    """apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 odc-by odbl pddl gpl-2.0 gpl-3.0 unlicense""".split()
)
MEANINGS = {
    "sequence_id": "name of the sequence, which index.parquet describes",
    "frame": "number of the frame in it, from 0",
    "image": "the image file as it was",
    "depth": "its depth file as it was; how to read metres from it says index.parquet (depth_codec, depth_scale)",
    "mask": "file of the pixels that can be used; empty where there is none",
    "sky_mask": "file of the pixels of the sky; empty where there is none",
}
KNOWN = {"poses": "cam_from_world", "intrinsics": "intrinsics", "depth": "depth"}
PLACE = "path/to/this/folder"


def dataset_card(name: str, index: SequenceIndex, features: datasets.Features) -> str:
    """Return the card of a packed index as Markdown with a YAML head.

    Args:
        name: of the data set.
        index: of its sequences.
        features: columns of its frames.
    """
    num_frames = sum(index.num_frames)
    licence, licence_name = _licence(index.column("licence"))
    head = DatasetCardData(
        pretty_name=name,
        license=licence,
        license_name=licence_name,
        task_categories=list(TASKS),
        size_categories=[_size(num_frames)],
        tags=list(TAGS),
        configs=[
            {"config_name": "frames", "data_files": "frames-*.parquet", "default": True},
            {"config_name": "index", "data_files": "index.parquet"},
        ],
        dataset_info=[
            {
                "config_name": "frames",
                "features": [{"name": key, "dtype": _kind(feature)} for key, feature in features.items()],
            }
        ],
    )
    return f"---\n{head.to_yaml()}\n---\n\n" + _text(name, index, num_frames)


def _text(name: str, index: SequenceIndex, num_frames: int) -> str:
    rows = [
        f"| {_cell(data.name)} | {_cell(data.licence)} | {data.num_sequences:,} | {data.num_frames:,} | "
        f"{data.hours:.2f} | {_source(data.source)} |"
        for data in summarize([index])
    ]
    known = [(what, len(index) - len(index.rows_without(column))) for what, column in KNOWN.items()]
    columns = [f"| {column} | {meaning} |" for column, meaning in MEANINGS.items()]
    nl = "\n"
    return f"""# {_cell(name)}

{len(index):,} sequences, {num_frames:,} frames, for training and evaluating
[Scal3R](https://arxiv.org/abs/2604.08542) and models like it. Of the sequences, {_listed(known)}.

| data set | licence | sequences | frames | hours | source |
| --- | --- | --- | --- | --- | --- |
{nl.join(rows)}

The licences are those of the data sets that this was packed from, and go on to bind.

## Files

`index.parquet` has a row for every sequence: poses (cam_from_world, OpenCV axes, x right, y down, z forward), pinhole
intrinsics in pixels, sizes, times, and how depth is stored. `frames-*.parquet` have a row for every frame:

| column | what |
| --- | --- |
{nl.join(columns)}

## Loading

With the package scal3r_train:

```python
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import read_frames

index = load_index("{PLACE}/index.parquet")  # or hf://datasets/OWNER/NAME/index.parquet, without downloading it all
frames = read_frames(index[0], [0, 1, 2], (392, 518))
frames.images, frames.depth  # as large as asked for, depth in metres or None
```

As a source of a training: `data.sources: [{{index: {PLACE}/index.parquet}}]`. Frames alone, without the package:
`datasets.load_dataset("OWNER/NAME", "frames", streaming=True)`.
"""


def _listed(known: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} have {what}" for what, count in known)


def _licence(stated: Sequence[str]) -> tuple[str, str | None]:
    """Return the hub's name of the one licence that all sequences have, or other and what to look at."""
    slugs = {re.sub(r"[\s_]+", "-", text.strip().lower()) for text in stated}
    if len(slugs) == 1 and slugs <= LICENCES:
        return slugs.pop(), None
    return "other", "see-the-table" if slugs != {""} else "not-stated"


def _size(num_frames: int) -> str:
    return next((name for end, name in SIZES.items() if num_frames < end), "n>1B")


def _kind(feature: datasets.Value | datasets.Image) -> str:
    return feature.dtype if isinstance(feature, datasets.Value) else "image"


def _source(text: str) -> str:
    """Return where data are from; a folder of this machine is no answer."""
    return "not stated" if not text or text.startswith(("/", "~", ".")) else _cell(text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or "not stated"
