"""The README.md of an exported model: what it is, what it was trained on, how to load it; pure text from facts.

Writes the model card and the resolved recipe beside exported weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from scal3r_train import __version__
from scal3r_train.config import dump_yaml, write_text_atomically
from scal3r_train.data.index.index import DatasetSummary, SequenceIndex, summarize
from scal3r_train.data.sampling.sources import deny_list_in_words
from scal3r_train.model.configuration_scal3r import write_processor_config
from scal3r_train.model.load_model import folder_sha256
from scal3r_train.model.lora import is_adapter
from scal3r_train.model.merge_adapters import is_adapter_folder
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.checkpointing.export import processor_settings
from scal3r_train.training.recipe import TrainingRecipe

TAGS = ("scal3r", "3d-reconstruction", "camera-pose-estimation", "depth-estimation", "video")


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells.

    Attributes:
        name: of the run.
        licence: of the weights, as Hugging Face writes it ("other" when it is not decided).
        num_parameters: of the model.
        started_from: checkpoint that the run went on from, None when it began from scratch.
        data: what it was trained on.
        resolutions: height and width in pixels of the images it was trained on.
        chunk_sizes: frames of a chunk in training.
        num_steps: optimizer steps that the run is to make.
        world_size, engine, device, precision: how it was computed.
        code_version: of scal3r_train.
        deny_list: whether sequences of benchmarks were kept out of the training, in words.
        step: completed optimizer steps.
        first_metrics, last_metrics: of validation, before step 0 and at `last_metrics_step`; empty without validation.
        recipe_file: name of the resolved recipe beside the card.
        checkpoint_sha256: of the folder's configuration and weights.
        is_adapters: whether the folder holds what was trained alone, to be used with `started_from`.
    """

    name: str
    licence: str
    num_parameters: int
    started_from: str | None
    data: Sequence[DatasetSummary]
    resolutions: Sequence[tuple[int, int]]
    chunk_sizes: Sequence[int]
    num_steps: int
    world_size: int
    engine: str
    device: str
    precision: str
    code_version: str
    deny_list: str
    step: int = 0
    first_metrics: Mapping[str, float] = field(default_factory=dict)
    last_metrics: Mapping[str, float] = field(default_factory=dict)
    last_metrics_step: int = 0
    recipe_file: str = ""
    checkpoint_sha256: str = ""
    is_adapters: bool = False


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown with a YAML head, as the Hugging Face hub reads it."""
    sections = [_head(facts), _summary(facts), _data(facts), _training(facts), _metrics(facts)]
    return "\n".join([*sections, _limitations(facts), ADAPTERS_LOADING if facts.is_adapters else LOADING])


def _head(facts: CardFacts) -> str:
    values: dict[str, object] = {"license": facts.licence}
    if facts.licence == "other":
        values["license_name"] = "see-training-data"
    values |= {"library_name": "peft" if facts.is_adapters else "scal3r_train", "tags": list(TAGS)}
    # JSON is YAML: whatever stands in a value, it stays one.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---", ""])


def _summary(facts: CardFacts) -> str:
    origin = (
        f"It went on from `{facts.started_from}`" if facts.started_from else "It was trained from scratch"
    )
    what = "Adapters (LoRA) and memories of a" if facts.is_adapters else "A"
    return f"""# {_cell(facts.name)}

{what} [Scal3R](https://arxiv.org/abs/2604.08542) model of {facts.num_parameters / 1e6:.2f} M parameters: chunks of a
long video in, cameras and dense geometry of every chunk out. {origin}.
"""


def _data(facts: CardFacts) -> str:
    rows = [
        (
            _cell(data.name),
            _cell(data.licence) or "not stated in the index",
            f"{data.num_sequences:,}",
            f"{data.num_frames:,}",
            f"{data.hours:.2f}",
            _cell(data.source) or "not stated in the index",
        )
        for data in facts.data
    ]
    head = ("data set", "licence", "sequences", "frames", "hours", "source")
    return f"""## Training data

{_table(head, rows)}

Sequences of benchmarks kept out of the training: {facts.deny_list}.
"""


def _training(facts: CardFacts) -> str:
    rows = [
        ("steps", f"{facts.step:,} of {facts.num_steps:,}"),
        (
            "processes",
            f"{facts.world_size}, engine {facts.engine}, {facts.precision}, on {_cell(facts.device)}",
        ),
        ("recipe", f"[{facts.recipe_file}]({facts.recipe_file}), which reproduces the run alone"),
        ("code", f"scal3r_train {facts.code_version}"),
        ("sha256 of configuration and weights", f"`{facts.checkpoint_sha256}`"),
    ]
    return f"## Training\n\n{_table(('what', 'value'), rows)}\n"


def _metrics(facts: CardFacts) -> str:
    if not facts.last_metrics:
        return "## Validation\n\nThe run did not validate.\n"
    rows = [
        (key, _number(facts.first_metrics.get(key)), _number(value))
        for key, value in facts.last_metrics.items()
    ]
    head = ("metric", "before step 0", f"at step {facts.last_metrics_step:,}")
    return f"## Validation\n\nOn the held-out windows of the recipe.\n\n{_table(head, rows)}\n"


def _limitations(facts: CardFacts) -> str:
    sizes = ", ".join(f"{height} x {width}" for height, width in facts.resolutions)
    lines = [
        f"Trained on images of {sizes} pixels in chunks of {', '.join(map(str, facts.chunk_sizes))} frames; other "
        "sizes are untested.",
        "Frames must be in temporal order. Lengths are in the model's own unit, not in metres.",
        "The numbers above are of the run's own validation. They are no benchmark results.",
    ]
    if facts.data and all(data.is_synthetic for data in facts.data):
        lines.insert(0, "All training data are rendered: real videos are outside of what it has seen.")
    if facts.step < facts.num_steps:
        lines.insert(
            0, f"The run was to make {facts.num_steps:,} steps; these are its weights after {facts.step:,}."
        )
    return "\n".join(["## Limitations", "", *(f"- {line}" for line in lines), ""])


LOADING = """## Loading

```python
import torch
from scal3r_train import Scal3RModel

model = Scal3RModel.from_pretrained("path/to/this/folder").eval()
with torch.no_grad():
    output = model(images)  # [sequences, chunks, frames, 3, height, width], RGB in [0, 1]
```

`AutoModel.from_pretrained("path/to/this/folder", trust_remote_code=True)` of transformers loads it too: the code
that it runs, `scal3r_auto.py`, is a few lines that import the installed scal3r_train.
`scal3r reconstruct VIDEO OUT model.checkpoint=path/to/this/folder` takes whole videos.
"""

ADAPTERS_LOADING = """## Loading

```
scal3r convert path/to/this/folder merged --base path/to/its/base
```

writes a plain model, which `Scal3RModel.from_pretrained("merged")` and `scal3r reconstruct` read. Or with peft:

```python
from peft import PeftModel
from scal3r_train import Scal3RModel

base = Scal3RModel.from_pretrained("path/to/its/base")
model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
```

`adapter_config.json` names the base, the header of `adapter_model.safetensors` the SHA-256 of its configuration and
weights. Beside the adapters the file holds the memories, and the heads if they were trained, whole.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return text of others so that it neither leaves its cell of a table nor begins a new line."""
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


RECIPE_NAME = "recipe.yaml"


class CardWriter:
    """Writes cards for the models of one run; on the main process."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        engine: Engine,
        model: Scal3RModel,
        indexes: Sequence[SequenceIndex],
    ) -> None:
        """Note what does not change during the run; `model` is not wrapped yet."""
        self._recipe = recipe
        self._engine = engine
        self._num_parameters = sum(
            parameter.numel() for name, parameter in model.named_parameters() if not is_adapter(name)
        )
        self._processor = processor_settings(recipe.curriculum.every_stage(), model.config.patch_size)
        self._indexes = indexes

    def describe(self, folder: Path, step: int) -> None:
        """Write README.md, recipe.yaml and the image processor's into a folder that holds the weights after a step."""
        first, last = validations(Path(self._recipe.output_dir) / "metrics.jsonl", step)
        facts = replace(
            self._facts,
            step=step,
            first_metrics=first,
            last_metrics={key: value for key, value in last.items() if key != "step"},
            last_metrics_step=int(last.get("step", 0)),
            recipe_file=RECIPE_NAME,
            checkpoint_sha256=folder_sha256(folder),
            is_adapters=is_adapter_folder(folder),
        )
        write_processor_config(folder, self._processor)
        write_text_atomically(folder / RECIPE_NAME, dump_yaml(self._recipe))
        write_text_atomically(folder / "README.md", model_card(facts))

    @cached_property
    def _facts(self) -> CardFacts:
        recipe, process = self._recipe, self._engine.process
        stages = recipe.curriculum.every_stage()
        return CardFacts(
            name=recipe.run_name,
            licence=recipe.checkpoint.licence,
            num_parameters=self._num_parameters,
            started_from=recipe.model.checkpoint,
            data=summarize(self._indexes),
            resolutions=sorted({(size.height, size.width) for stage in stages for size in stage.resolution}),
            chunk_sizes=sorted({size for stage in stages for size in stage.chunk_size}),
            num_steps=recipe.optim.num_steps,
            world_size=process.world_size,
            engine=self._engine.name,
            device=torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "CPU",
            precision=recipe.parallel.precision,
            code_version=__version__,
            deny_list=deny_list_in_words(recipe.data, self._indexes),
        )


def validations(metrics: Path, step: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return what metrics.jsonl says of the validation before step 0 and of the last one, without what is null.

    Lines after `step`, and one that is still being written, are those of a run that has gone on since.
    """
    if not metrics.is_file():
        return {}, {}
    text = metrics.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    known = [
        {key: value for key, value in line.items() if value is not None}
        for line in lines
        if line["step"] <= step and any(key.startswith("val/") for key in line)
    ]
    if not known:
        return {}, {}
    return (known[0] if known[0]["step"] == 0 else {}), known[-1]
