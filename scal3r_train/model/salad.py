"""Place recognition by DINOv2 SALAD: a ViT-B/14 encoder and optimal-transport aggregation.

docs/numerics.md#place-recognition has the numbers.

Izquierdo and Civera, "Optimal Transport Aggregation for Visual Place Recognition", CVPR 2024. Inference only; the
parameters carry the published names.

Shapes: A images, n locations, m clusters, C channels of the encoder, F channels of a cluster, D = T + m F numbers of a
descriptor (8448 as released), H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from scal3r_train.config import UserError
from scal3r_train.model.aggregator import normalize_images
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import read_tensors
from scal3r_train.model.patch_encoder import DinoPatchEncoder

IMAGE_SIDE = 336
SINKHORN_STEPS = 3
OUR_PREFIXES = {"backbone.model.": "encoder.", "aggregator.": "head."}
MAX_UINT8 = 255


def place_encoder_config() -> Scal3RConfig:
    """Return the sizes of SALAD's encoder: DINOv2 ViT-B/14 without registers, positions resampled its own way."""
    return Scal3RConfig(
        hidden_size=768,
        num_heads=12,
        num_layers=1,
        tap_layers=[0],
        memory_layers=[],
        depth_head=False,
        point_head=False,
        encoder_layers=12,
        encoder_heads=12,
        num_register_tokens=0,
        encoder_antialias=False,
        encoder_position_offset=0.1,
    )


class SaladHead(nn.Module):
    """Shares the local features out to clusters by optimal transport and sums them there."""

    def __init__(
        self,
        num_channels: int = 768,
        num_clusters: int = 64,
        cluster_dim: int = 128,
        token_dim: int = 256,
        hidden_dim: int = 512,
    ) -> None:
        """Build with the released sizes by default."""
        super().__init__()
        self.token_features = nn.Sequential(
            nn.Linear(num_channels, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, token_dim)
        )
        self.cluster_features = _local_mlp(num_channels, hidden_dim, cluster_dim)
        self.score = _local_mlp(num_channels, hidden_dim, num_clusters)
        self.dust_bin = nn.Parameter(torch.ones(()))

    def forward(self, patches: Tensor, token: Tensor) -> Tensor:
        """Return descriptors of unit length, [A, D] float32.

        Args:
            patches: [A, C, h, w] final patch tokens, n = h w greater than the number of clusters.
            token: [A, C] final cls tokens.
        """
        features = rearrange(self.cluster_features(patches), "a f h w -> a f (h w)").float()  # [A, F, n]
        scores = rearrange(self.score(patches), "a m h w -> a m (h w)").float()
        shares = self.transport(scores)[:, :-1]  # [A, m, n]
        clusters = rearrange(F.normalize(features @ shares.mT, dim=1), "a f m -> a (f m)")
        whole = F.normalize(self.token_features(token).float(), dim=1)
        return F.normalize(torch.cat([whole, clusters], dim=1), dim=1)

    def transport(self, scores: Tensor) -> Tensor:
        """Return how much of each location goes to each cluster and, last, to the dustbin.

        Three Sinkhorn iterations in the log domain. Every cluster asks for the mass of one location, the dustbin for
        all others.

        Args:
            scores: [A, m, n].

        Returns:
            [A, m + 1, n], not negative; each location's shares sum to 1.
        """
        num_images, num_clusters, num_locations = scores.shape
        assert num_locations > num_clusters
        bin_row = self.dust_bin.float().expand(num_images, 1, num_locations)
        logits = torch.cat([scores, bin_row], dim=1)
        log_total = scores.new_tensor(num_clusters + num_locations).log()
        log_rows = -log_total.repeat(num_clusters + 1)
        log_rows[-1] += scores.new_tensor(num_locations - num_clusters).log()
        columns = torch.zeros_like(logits[:, 0])
        for _ in range(SINKHORN_STEPS):
            rows = log_rows - (logits + columns[:, None]).logsumexp(dim=2)
            columns = -log_total - (logits + rows[:, :, None]).logsumexp(dim=1)
        return (logits + rows[:, :, None] + columns[:, None] + log_total).exp()


class PlaceRecognizer(nn.Module):
    """DINOv2 SALAD: images to descriptors whose inner products say how alike two places are."""

    def __init__(self, config: Scal3RConfig, head: SaladHead) -> None:
        """Build from the encoder's sizes and a head for its channels."""
        super().__init__()
        self.encoder = DinoPatchEncoder(config)
        self.head = head
        self.patch_size = config.patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Return descriptors [A, D] float32 of images [A, 3, H, W], uint8 or in [0, 1].

        They are squeezed to 336 x 336 by the antialiased bilinear filter, whatever their shape was.
        """
        dtype = self.encoder.cls_token.dtype
        pixels = images.float() / MAX_UINT8 if images.dtype == torch.uint8 else images.float()
        square = F.interpolate(pixels, size=(IMAGE_SIDE, IMAGE_SIDE), mode="bilinear", antialias=True)
        tokens = self.encoder.encode(normalize_images(square).to(dtype))
        patches = rearrange(tokens[:, 1:], "a (h w) c -> a c h w", h=IMAGE_SIDE // self.patch_size)
        return self.head(patches, tokens[:, 0])


def load_place_recognizer(path: Path, device: torch.device) -> PlaceRecognizer:
    """Return DINOv2 SALAD with released weights, in evaluation mode and float32, without gradients.

    Args:
        path: a flat dict of tensors under the published names (`backbone.model.*`, `aggregator.*`), .safetensors or a
            torch file, which is read without executing anything in it.
        device: where it goes.

    Raises:
        UserError: the file is missing or damaged, or does not hold exactly these weights.
    """
    state = _our_names(read_tensors(path), path)
    with torch.device("meta"):
        model = PlaceRecognizer(place_encoder_config(), SaladHead())
    expected = model.state_dict()
    for names, problem in (
        ([name for name in expected if name not in state], "lacks"),
        ([name for name in state if name not in expected], "has the unknown"),
        (
            [name for name in state if name in expected and state[name].shape != expected[name].shape],
            "has another shape of",
        ),
    ):
        if names:
            raise UserError(
                f"checkpoint {path} {problem} tensor {_published_name(names[0])} ({len(names)} in all); DINOv2 SALAD "
                "with ViT-B/14 and 64 clusters is needed; check salad_checkpoint"
            )
    model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return model.requires_grad_(requires_grad=False).eval().to(device)


def _our_names(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors under the names of `PlaceRecognizer`."""
    renamed = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in OUR_PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            raise UserError(
                f"checkpoint {path} is no DINOv2 SALAD: it holds {name!r}, and only backbone.model.* and aggregator.* "
                "are known; check salad_checkpoint"
            )
        renamed[OUR_PREFIXES[prefix] + name.removeprefix(prefix)] = value
    return renamed


def _published_name(name: str) -> str:
    """Return the published name of one of our parameters."""
    prefix = next(prefix for prefix, ours in OUR_PREFIXES.items() if name.startswith(ours))
    return prefix + name.removeprefix(OUR_PREFIXES[prefix])


def _local_mlp(num_channels: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Return two 1 x 1 convolutions; place 1 is the published model's dropout, which does nothing here."""
    return nn.Sequential(
        nn.Conv2d(num_channels, hidden_dim, 1), nn.Identity(), nn.ReLU(), nn.Conv2d(hidden_dim, out_dim, 1)
    )
