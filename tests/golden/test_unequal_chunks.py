"""The harness takes goldens whose chunks differ in length; made here by a plain loop over chunks and frames."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scal3r_train.model.aggregator import Aggregator
from scal3r_train.model.chunk_batch import ChunkBatch, ImageBatch
from scal3r_train.model.fast_weight import summed
from tests.conftest import PROJECT_ROOT
from tests.golden.check_model import (
    _aggregator_config,
    _aggregator_weights,
    _in_processing_order,
    _load,
    check_full_model,
)
from tests.golden.checks import disagreements
from tests.golden.reader import Golden

pytestmark = pytest.mark.golden

FOLDER = Path(os.environ.get("SCAL3R_GOLDENS", PROJECT_ROOT.parent / "shared" / "goldens"))
FRAMES = [5, 3, 4]


def published(name: str) -> Golden:
    """Return a golden whose weights are borrowed; skip when it is not there."""
    if not (FOLDER / "manifest.json").is_file():
        pytest.skip(f"goldens not found at {FOLDER} (set SCAL3R_GOLDENS)")
    return Golden.load(FOLDER, name)


@torch.no_grad()
def plain_trace(aggregator: Aggregator, chunks: list[ChunkBatch], head_dim: int) -> dict[str, Tensor]:
    """Return outputs of all blocks and layers under the golden's names, every frame and every chunk by itself."""
    out = {f"mid.chunk{i}.embed": chunk.tokens[0, 0] for i, chunk in enumerate(chunks)}
    for j in range(aggregator.num_layers):
        unit = aggregator.memory_after(range(j, j + 1))
        for i, chunk in enumerate(chunks):
            table = chunk.positions.table(head_dim, aggregator.rope_frequency, torch.float32)
            frames = [aggregator.frame_blocks[j](frame[None], table) for frame in chunk.tokens[0, 0]]
            half = torch.cat(frames)
            flat = aggregator.global_blocks[j](half.reshape(1, -1, half.shape[-1]), table)
            chunks[i] = chunk.with_tokens(flat.reshape(chunk.tokens.shape))
            out[f"mid.chunk{i}.layer{j}.frame"] = half[None]
            name = "tokens" if unit is None else "before_amu"
            out[f"mid.chunk{i}.layer{j}.{name}"] = chunks[i].tokens[0]
        if unit is not None:
            weights = unit.updated_weights(summed([unit.chunk_gradient(chunk) for chunk in chunks]))
            chunks = [unit.apply_weights(chunk, weights, None) for chunk in chunks]
            for i, chunk in enumerate(chunks):
                out[f"mid.fp32.chunk{i}.layer{j}.tokens"] = chunk.tokens[0]
    last = aggregator.num_layers - 1
    return out | {f"out.fp32.chunk{i}.layer{last}.tokens": chunk.tokens[0] for i, chunk in enumerate(chunks)}


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one golden of the aggregator, frames per chunk 5, 3, 4."""
    source = published("g2_aggregator")
    config = {**source.config, "frames_per_chunk": FRAMES}
    generator = torch.Generator().manual_seed(5)
    tensors = {key: source[key] for key in source.keys("w.")}
    for i, num_frames in enumerate(FRAMES):
        shape = (1, num_frames, 3, *config["hw"])
        tensors[f"in.chunk{i}.images_u8"] = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    sizes = _aggregator_config(config["aggregator"], config["ttt"], newton_schulz_dtype="working")
    aggregator = _load(Aggregator(sizes), _aggregator_weights(source.weights()))
    images = [tensors[f"in.chunk{i}.images_u8"][None].float() / 255 for i in range(len(FRAMES))]
    chunks = [
        aggregator.embed(ImageBatch(_in_processing_order(chunk), (0,), ((0, i),), None))
        for i, chunk in enumerate(images)
    ]
    tensors |= plain_trace(aggregator, chunks, sizes.hidden_size // sizes.num_heads)
    folder = tmp_path_factory.mktemp("goldens")
    save_file(
        {key: value.clone().contiguous() for key, value in tensors.items()}, folder / "unequal.safetensors"
    )
    entry = {"config": config, "files": [{"path": "unequal.safetensors"}]}
    (folder / "manifest.json").write_text(json.dumps({"goldens": {"unequal": entry}}))
    return folder


def test_chunks_of_unequal_length_are_reproduced(unequal: Path) -> None:
    assert not disagreements(Golden.load(unequal, "unequal"))


def test_a_wrong_frame_of_the_shortest_chunk_is_found(unequal: Path) -> None:
    golden = Golden.load(unequal, "unequal")
    golden.tensors["mid.chunk1.layer0.frame"][0, 2] += 0.01
    (found,) = disagreements(golden)
    assert found.startswith("mid.chunk1.layer0.frame")


def test_the_whole_model_takes_chunks_that_no_schedule_makes() -> None:
    source = published("g3_model")
    config = {**source.config, "chunk_ranges": [[0, 5], [4, 7], [6, 10]]}
    names = ["out.fp32.final.c2w", *(f"out.fp32.chunk{i}.depth" for i in range(3))]
    tensors = {key: source[key] for key in source.tensors if key.startswith(("w.", "in."))}
    tensors |= {name: torch.empty(0) for name in names}
    recomputed = check_full_model(Golden("unequal", config, {}, tensors))
    assert [len(recomputed[name].squeeze()) for name in names] == [10, 5, 3, 4]
