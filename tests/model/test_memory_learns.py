"""The memory carries information between chunks: a blank chunk learns to tell what only its siblings saw.

Each sequence has a hidden standard normal number, painted as the strength of a fixed pattern (plus pixel noise) on all
of its chunks but the last, which is uniformly grey. A linear read-out of the grey chunk's tokens must tell the number.
Whoever cannot look beyond the chunk can do no better than predict the mean: an error of 1, the number's variance.

Shapes: B sequences, K chunks of one frame, H W pixels.
"""

import pytest
import torch
from torch import Tensor, nn

from scal3r_train.model.aggregator import Aggregator
from scal3r_train.model.chunk_batch import ImageBatch
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel

NUM_STEPS = 80
BATCH_SIZE = 16
LEARNING_RATE = 3e-3
NUM_CHUNKS = 3
SIDE = 8


class BlankChunkReader(nn.Module):
    """The real aggregator with at most one memory, and a linear read-out of the last chunk of each sequence."""

    def __init__(self, memory_layers: list[int], context: str) -> None:
        super().__init__()
        config = Scal3RConfig(
            image_size=SIDE,
            patch_size=4,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            mlp_ratio=2.0,
            num_register_tokens=1,
            patch_encoder="conv",
            tap_layers=[1],
            memory_layers=memory_layers,
            memory_expansion=2,
            layer_scale_init=1.0,
            camera_heads=2,
            camera_layers=1,
            depth_head=False,
            point_head=False,
        )
        self.aggregator: Aggregator = Scal3RModel(config).aggregator
        self.read_out = nn.Linear(2 * config.hidden_size, 1)
        self.context = context

    def forward(self, images: Tensor) -> Tensor:
        """Return the number told by the last of the chunks [B, K, 1, 3, H, W], [B]."""
        num_sequences, num_chunks = images.shape[:2]
        if self.context == "chunk":
            images = images.flatten(0, 1)[:, None]
        batch = ImageBatch(images, tuple(range(len(images))), (), None)
        tokens = torch.cat(self.aggregator([batch], len(images), [1])[0].taps[1], dim=-1).flatten(0, 2)
        last = tokens.unflatten(0, (num_sequences, num_chunks))[:, -1]
        return self.read_out(last.mean(dim=1))[:, 0]


def draw(num_sequences: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images [B, K, 1, 3, H, W] and the hidden numbers [B]."""
    numbers = torch.randn(num_sequences, generator=generator)
    pattern = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(7)).sign()
    seen = 0.5 + 0.15 * numbers[:, None, None, None, None, None] * pattern
    seen = seen.expand(-1, NUM_CHUNKS - 1, -1, -1, -1, -1)
    seen = seen + 0.05 * torch.randn(seen.shape, generator=generator)
    return torch.cat([seen, torch.full_like(seen[:, :1], 0.5)], dim=1), numbers


def error_after_training(memory_layers: list[int], context: str, seed: int = 0) -> float:
    """Return the mean squared error on 500 fresh sequences after a short training."""
    torch.manual_seed(seed)
    model = BlankChunkReader(memory_layers, context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=NUM_STEPS)
    generator = torch.Generator().manual_seed(100 + seed)
    for _ in range(NUM_STEPS):
        images, numbers = draw(BATCH_SIZE, generator)
        loss = (model(images) - numbers).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        images, numbers = draw(500, generator)
        return (model(images) - numbers).square().mean().item()


def test_a_blank_chunk_tells_what_its_siblings_saw():
    assert error_after_training([0], context="sequence") <= 0.2


@pytest.mark.parametrize(
    ("memory_layers", "context"), [([0], "chunk"), ([], "sequence")], ids=["memory of one chunk", "no memory"]
)
def test_without_shared_memory_it_cannot(memory_layers, context):
    assert error_after_training(memory_layers, context) >= 0.7
