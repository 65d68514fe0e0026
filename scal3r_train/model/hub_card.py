"""The README.md of published weights: what they are, what they were trained on, how to load them; text from facts.

The head is what the Hugging Face hub reads. `library_name` is transformers, since it is through `AutoModel` that a
folder is loaded (with `scal3r_auto.py`, which needs scal3r_train installed); the hub then shows that call and counts
downloads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from huggingface_hub import EvalResult, ModelCardData

PIPELINE, LIBRARY, ADAPTERS_LIBRARY = "image-to-3d", "transformers", "peft"
PAPER = "2604.08542"
TAGS = (
    "scal3r",
    "3d-reconstruction",
    "camera-pose-estimation",
    "depth-estimation",
    "video",
    f"arxiv:{PAPER}",
)
METRIC_PREFIX = "val/"
FOLDER = "path/to/this/folder"
RECONSTRUCT = "scal3r reconstruct VIDEO OUT"


class CardData(Protocol):
    """A data set in the card (scal3r_train/data/index/index.py: DatasetSummary)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def licence(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def num_sequences(self) -> int: ...  # noqa: D102
    @property
    def num_frames(self) -> int: ...  # noqa: D102
    @property
    def hours(self) -> float: ...  # noqa: D102
    @property
    def is_synthetic(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class ValidationFacts:
    """What a run measured itself by.

    Attributes:
        data: names of the data sets.
        num_sequences: from which the windows are drawn.
        num_trained_on: how many of these the run also trained on.
        step: optimizer steps before the last validation.
        first, last: its metrics before step 0 (may be empty) and at `step`.
    """

    data: Sequence[str]
    num_sequences: int
    num_trained_on: int
    step: int
    first: Mapping[str, float]
    last: Mapping[str, float]

    @property
    def is_held_out(self) -> bool:
        """Whether the run trained on none of the sequences."""
        return self.num_trained_on == 0


@dataclass(frozen=True)
class TrainingFacts:
    """How weights came about.

    Attributes:
        data: what they were trained on.
        hub_data: data sets among these that were read from the hub, as OWNER/NAME.
        deny_list: whether sequences of benchmarks were kept out of the training, in words.
        resolutions: height and width in pixels of the images.
        chunk_sizes: frames of a chunk.
        step, num_steps: completed optimizer steps, and how many the run is to make.
        computed_by: processes, engine, precision and device, in words.
        validation: None when the run has not validated.
    """

    data: Sequence[CardData]
    deny_list: str
    resolutions: Sequence[tuple[int, int]]
    chunk_sizes: Sequence[int]
    step: int
    num_steps: int
    computed_by: str
    hub_data: Sequence[str] = ()
    validation: ValidationFacts | None = None


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        name: of the model or run.
        licence: of the weights, as Hugging Face writes it ("other" when it is not decided).
        num_parameters: of the model.
        checkpoint_sha256: of the folder's configuration and weights.
        code_version: of scal3r_train that trained it; None when that is not known.
        started_from: name of the weights that training went on from, None when it began from scratch.
        encoder_of: name of the weights whose patch encoder a new network began with, None without.
        base_model: what it went on from on the hub, as OWNER/NAME; None when they are not there.
        recipe_file: name of the resolved recipe beside the card, None without.
        training: None when nothing is known of it.
        remarks: paragraphs of its own, in Markdown.
        is_adapters: whether the folder holds what was trained alone, to be used with `started_from`.
        is_average: whether these are the moving average of a run's weights; a run validates its own weights alone.
        motion_hw: size of the images of a model that measures motion; None for others.
    """

    name: str
    licence: str
    num_parameters: int
    checkpoint_sha256: str
    code_version: str | None = None
    started_from: str | None = None
    encoder_of: str | None = None
    base_model: str | None = None
    recipe_file: str | None = None
    training: TrainingFacts | None = None
    remarks: Sequence[str] = field(default_factory=tuple)
    is_adapters: bool = False
    is_average: bool = False
    motion_hw: tuple[int, int] | None = None


def model_card(facts: CardFacts, repo_id: str | None = None) -> str:
    """Return the card as Markdown with a YAML head; `repo_id` (OWNER/NAME) is where it will be published."""
    sections = [_head(facts), _summary(facts)]
    if facts.training is not None:
        sections += [_data(facts.training), _training(facts, facts.training), _metrics(facts, facts.training)]
    loading = ADAPTERS_LOADING if facts.is_adapters else _loading(facts.motion_hw)
    card = "\n".join([*sections, _limitations(facts), loading])
    return card if repo_id is None else at_home(card, repo_id)


def at_home(card: str, repo_id: str) -> str:
    """Return a card whose section on loading is that for the place where it is published; the rest stays."""
    folder = slug(repo_id.split("/")[-1])
    card = card.replace(f"\n{RECONSTRUCT}", f"\nhf download {repo_id} --local-dir {folder} && {RECONSTRUCT}")
    return card.replace(f"model.checkpoint={FOLDER}", f"model.checkpoint={folder}").replace(FOLDER, repo_id)


def reconstruct_command(folder: str, motion_hw: tuple[int, int] | None) -> str:
    """Return the command that reconstructs a video with the weights in `folder`.

    A model that measures motion needs the size `motion_hw` of its images, and the seams of the recipe `small`.
    """
    own = "" if motion_hw is None else f" small input.image_hw=[{motion_hw[0]},{motion_hw[1]}]"
    return f"{RECONSTRUCT}{own} model.checkpoint={folder}"


def slug(text: str) -> str:
    """Return a name as the hub has them: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def _head(facts: CardFacts) -> str:
    training = facts.training
    names = [] if training is None else [*training.hub_data, *(slug(data.name) for data in training.data)]
    results = [] if facts.is_average else _results(training)
    data = ModelCardData(
        license=facts.licence,
        license_name="see-training-data" if facts.licence == "other" else None,
        library_name=ADAPTERS_LIBRARY if facts.is_adapters else LIBRARY,
        pipeline_tag=PIPELINE,
        tags=list(TAGS),
        datasets=list(dict.fromkeys(names)) or None,
        base_model=facts.base_model,
        base_model_relation=("adapter" if facts.is_adapters else "finetune") if facts.base_model else None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _results(training: TrainingFacts | None) -> list[EvalResult]:
    """Return the last validation as the hub's model index has it."""
    validation = None if training is None else training.validation
    if validation is None:
        return []
    names = ", ".join(validation.data)
    kind = "held-out sequences" if validation.is_held_out else "sequences that it also trained on"
    return [
        EvalResult(
            task_type=PIPELINE,
            dataset_type=slug("-".join(validation.data)),
            dataset_name=f"{names} ({kind})",
            metric_type=key.removeprefix(METRIC_PREFIX),
            metric_name=key,
            metric_value=value,
        )
        for key, value in validation.last.items()
    ]


def _summary(facts: CardFacts) -> str:
    if facts.started_from:
        origin = f" It went on from `{facts.base_model or _cell(facts.started_from)}`."
    elif facts.encoder_of:
        encoder = f"its patch encoder, which began as that of `{_cell(facts.encoder_of)}`"
        origin = f" It was trained from scratch, but for {encoder}."
    else:
        origin = " It was trained from scratch." if facts.training else ""
    paragraphs = "".join(f"\n{remark}\n" for remark in facts.remarks)
    lines = [("sha256 of configuration and weights", f"`{facts.checkpoint_sha256}`")]
    if facts.code_version is not None:
        lines.insert(0, ("code", f"scal3r_train {facts.code_version}"))
    unknown = "" if facts.training else "\nHow it was trained is not recorded with these weights.\n"
    what = "Adapters (LoRA) and memories of a" if facts.is_adapters else "A"
    return f"""# {_cell(facts.name)}

{what} [Scal3R](https://arxiv.org/abs/{PAPER}) model of {facts.num_parameters / 1e6:.2f} M parameters: chunks of a long
video in, cameras and dense geometry of every chunk out.{origin}
{paragraphs}{unknown}
{table(("what", "value"), lines)}
"""


def _data(training: TrainingFacts) -> str:
    rows = [
        (
            _cell(data.name),
            _cell(data.licence) or "not stated in the index",
            f"{data.num_sequences:,}",
            f"{data.num_frames:,}",
            f"{data.hours:.2f}",
            _cell(data.source) or "not stated in the index",
        )
        for data in training.data
    ]
    head = ("data set", "licence", "sequences", "frames", "hours", "source")
    return f"""## Training data

{table(head, rows)}

Sequences of benchmarks kept out of the training: {training.deny_list}.
"""


def _training(facts: CardFacts, training: TrainingFacts) -> str:
    rows = [
        ("steps", f"{training.step:,} of {training.num_steps:,}"),
        ("computed by", _cell(training.computed_by)),
    ]
    if facts.recipe_file is not None:
        link = f"[{facts.recipe_file}]({facts.recipe_file})"
        rows.append(("recipe", f"{link}; paths of data are shortened to their last parts"))
    return f"## Training\n\n{table(('what', 'value'), rows)}\n"


def _metrics(facts: CardFacts, training: TrainingFacts) -> str:
    validation = training.validation
    if validation is None:
        return "## Validation\n\nThe run did not validate.\n"
    rows = [
        (key, _number(validation.first.get(key)), _number(value)) for key, value in validation.last.items()
    ]
    head = ("metric", "before step 0", f"at step {validation.step:,}")
    of = f"{validation.num_sequences:,} sequences of {_cell(', '.join(validation.data))}"
    if validation.is_held_out:
        what = f"On held-out windows: of {of}, none of which this run trained on."
        if facts.started_from or facts.encoder_of:
            what += " The weights that it went on from may have seen them."
    else:
        what = (
            f"On windows of {of}, {validation.num_trained_on:,} of which the run also trained on: this is how well it "
            "learned them, not how it does on others."
        )
    if facts.is_average:
        what += " These numbers are of the run's own weights, not of their moving average, which this folder holds."
    return f"## Validation\n\n{what}\n\n{table(head, rows)}\n"


def _limitations(facts: CardFacts) -> str:
    lines = ["Frames must be in temporal order. Lengths are in the model's own unit, not in metres."]
    training = facts.training
    if training is not None:
        sizes = ", ".join(f"{height} x {width}" for height, width in training.resolutions)
        chunks = ", ".join(map(str, training.chunk_sizes))
        lines.insert(
            0,
            f"Trained on images of {sizes} pixels in chunks of {chunks} frames; other sizes are untested.",
        )
        if training.validation is not None:
            lines.append("The numbers above are of the run's own validation. They are no benchmark results.")
        if training.data and all(data.is_synthetic for data in training.data):
            lines.insert(0, "All training data are rendered: real videos are outside of what it has seen.")
        if training.step < training.num_steps:
            lines.insert(
                0,
                f"The run was to make {training.num_steps:,} steps; these are its weights after {training.step:,}.",
            )
    return "\n".join(["## Limitations", "", *(f"- {line}" for line in lines), ""])


def _loading(motion_hw: tuple[int, int] | None) -> str:
    """Return how to load the weights from a folder."""
    motion = (
        ""
        if motion_hw is None
        else """
In Python a model that measures motion takes the field of view that each chunk seems to show; give `fov=RADIANS` where
the camera is known. The command calibrates the whole video.
"""
    )
    return f"""## Loading

With the package scal3r_train installed (its wheel, or a checkout):

```python
import torch
from scal3r_train import Scal3RModel

model = Scal3RModel.from_pretrained("{FOLDER}").eval()
with torch.no_grad():
    output = model(pixel_values)  # [sequences, chunks, frames, 3, height, width], RGB in [0, 1]
```

`AutoModel.from_pretrained("{FOLDER}", trust_remote_code=True)` of transformers loads it too: the code that it runs,
`scal3r_auto.py`, is a few lines that import the installed scal3r_train. Whole videos:

```
{reconstruct_command(FOLDER, motion_hw)}
```
{motion}"""


ADAPTERS_LOADING = f"""## Loading

```
scal3r convert {FOLDER} merged --base path/to/its/base
```

writes a plain model, which `Scal3RModel.from_pretrained("merged")` and `scal3r reconstruct` read. Or with peft:

```python
from peft import PeftModel
from scal3r_train import Scal3RModel

base = Scal3RModel.from_pretrained("path/to/its/base")
model = PeftModel.from_pretrained(base, "{FOLDER}").eval()
```

`adapter_config.json` names the base, the header of `adapter_model.safetensors` the SHA-256 of its configuration and
weights. Beside the adapters the file holds the memories, and the heads if they were trained, whole.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; cells are text that `_cell` has been over, or our own."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return text of others so that it neither leaves its cell of a table nor begins a new line."""
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
