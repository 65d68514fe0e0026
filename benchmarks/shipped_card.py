"""Writes README.md and recipe.yaml of the shipped checkpoint, assets/scal3r-tiny, as trainings write theirs.

    python -m benchmarks.shipped_card [FOLDER]

Its validation is made again, on the towns of its recipe's second command (a minute on one core); how it was trained is
stated by recipes/scal3r_tiny.yaml. FOLDER: write there instead.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from scal3r_data_tools import synth
from scal3r_train.config import dump_yaml, write_text_atomically
from scal3r_train.data.index.index import load_index, summarize
from scal3r_train.data.synthetic.town import FRAMES_PER_SECOND
from scal3r_train.model.hub_card import CardFacts, TrainingFacts, ValidationFacts, model_card
from scal3r_train.model.hub_files import CARD_NAME, RECIPE_NAME, num_parameters
from scal3r_train.model.weight_files import folder_sha256
from scal3r_train.parallel.build_engine import build_engine
from scal3r_train.parallel.process import joined_processes
from scal3r_train.recipe import load_training_recipe
from scal3r_train.shipped import find_checkpoint, find_recipe
from scal3r_train.train import build_model, stored_weights
from scal3r_train.training.trainer import Trainer
from scal3r_train.training.validation import validate

NAME = "scal3r-tiny"
SIZE = ("height=48", "width=72")
TRAINING_TOWNS, TRAINING_FRAMES = 128, 120
VALIDATION = ("num_sequences=8", "num_frames=96", "seed=2")
REMARKS = (
    "The small checkpoint that comes with scal3r_train: `make demo` goes on from it, `recipes/eval/synthetic.yaml` "
    "evaluates it. It shows that the system works end to end; it does not reconstruct real videos well.",
    "Network: `correlation` patch encoder (cost volume against the previous frame), 4 layers of 64 channels, memories "
    "after layers 1 and 3, camera and depth head. Input: frames driven forwards.",
    "On 8 towns that it has not seen (`scal3r eval recipes/eval/synthetic.yaml`): ATE 2.1 % of the path, against 10.4 "
    "of a straight line and 4.8 of a constant turn, both at the true mean rate. On real videos it is no better than "
    "these guesses.",
    "The training data are generated and carry no licence of others. Made by the three commands at the top of "
    "recipes/scal3r_tiny.yaml.",
)


def main(argv: list[str]) -> int:
    """Validate the checkpoint, then write its card and recipe."""
    weights = find_checkpoint(NAME)
    target = Path(argv[0]) if argv else weights
    recipe = load_training_recipe(find_recipe("scal3r_tiny"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        synth.main(folder / "towns", ["num_sequences=1", f"num_frames={TRAINING_FRAMES}", "seed=1", *SIZE])
        synth.main(folder / "validation", [*VALIDATION, *SIZE])
        trained_on = load_index(folder / "towns" / synth.INDEX_FILE)
        validated_on = load_index(folder / "validation" / synth.INDEX_FILE)
        values = _validation(weights, folder)
    one = summarize([trained_on])[0]
    frames = TRAINING_TOWNS * TRAINING_FRAMES
    hours = TRAINING_TOWNS * (TRAINING_FRAMES - 1) / FRAMES_PER_SECOND / 3600
    stage = recipe.curriculum.every_stage()[0]
    training = TrainingFacts(
        data=[replace(one, num_sequences=TRAINING_TOWNS, num_frames=frames, hours=hours)],
        deny_list="none of these are of a benchmark",
        resolutions=[(size.height, size.width) for size in stage.resolution],
        chunk_sizes=sorted(stage.chunk_size),
        step=recipe.optim.num_steps,
        num_steps=recipe.optim.num_steps,
        computed_by="2 processes, engine ddp, fp32, on CPU",
        validation=ValidationFacts(
            data=sorted(set(validated_on.column("dataset"))),
            num_sequences=len(validated_on),
            num_trained_on=0,  # another seed: other towns
            step=recipe.optim.num_steps,
            first={},
            last=values,
        ),
    )
    facts = CardFacts(
        name=NAME,
        licence="apache-2.0",
        num_parameters=num_parameters(weights),
        checkpoint_sha256=folder_sha256(weights),
        recipe_file=RECIPE_NAME,
        training=training,
        remarks=REMARKS,
    )
    write_text_atomically(target / RECIPE_NAME, dump_yaml(recipe))
    write_text_atomically(target / CARD_NAME, model_card(facts))
    return 0


def _validation(weights: Path, folder: Path) -> dict[str, float]:
    """Return the metrics of the checkpoint on the validation windows of its recipe."""
    recipe = load_training_recipe(
        find_recipe("scal3r_tiny"),
        [
            "model.network=null",
            f"model.checkpoint={weights}",
            f"output_dir={folder / 'run'}",
            f"data.sources.0.index={folder / 'towns' / synth.INDEX_FILE}",
            f"validation.sources.0.index={folder / 'validation' / synth.INDEX_FILE}",
        ],
    )
    with joined_processes() as process:
        engine = build_engine(recipe.parallel, process, 1)
        stored = stored_weights(recipe.model)
        trainer = Trainer(recipe, engine, build_model(recipe.model, stored), stored)
        assert trainer.validation is not None
        data = trainer.validation
        windows = recipe.validation.num_windows
        values = validate(engine, trainer.groups, data.plan, data.dataset, windows, recipe.losses)
        engine.close()
    return values


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
