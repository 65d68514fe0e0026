"""DINOv2 SALAD: the aggregation against its definition, and the loader against files that are not it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.model import salad
from scal3r_train.model.salad import PlaceRecognizer, SaladHead, load_place_recognizer, place_encoder_config

SMALL = {"num_channels": 16, "num_clusters": 4, "cluster_dim": 3, "token_dim": 5, "hidden_dim": 8}


@torch.no_grad()
def test_transport_is_the_optimal_plan_of_its_marginals() -> None:
    head = SaladHead(**SMALL)
    scores = torch.randn(2, 4, 30)
    shares = head.transport(scores)
    assert torch.allclose(shares.sum(dim=1), torch.ones(2, 30), atol=1e-5)
    # Entropic optimal transport is a rescaling of exp(scores): double ratios are those of the scores.
    logits = torch.cat([scores, head.dust_bin.expand(2, 1, 30)], dim=1)
    rescaling = shares.log() - logits
    ratios = rescaling - rescaling[:, :1] - rescaling[:, :, :1] + rescaling[:, :1, :1]
    assert ratios.abs().max() < 1e-4


@torch.no_grad()
def test_equal_scores_give_every_cluster_one_location_and_the_dustbin_the_rest() -> None:
    head = SaladHead(**SMALL)
    shares = head.transport(torch.ones(1, 4, 30))
    assert torch.allclose(shares.sum(dim=2)[0], torch.tensor([1.0, 1, 1, 1, 26]), atol=1e-4)


@torch.no_grad()
def test_descriptor_against_a_loop_over_clusters() -> None:
    head = SaladHead(**SMALL)
    patches, token = torch.randn(2, 16, 5, 6), torch.randn(2, 16)
    shares = head.transport(head.score(patches).flatten(2))
    features = head.cluster_features(patches).flatten(2)
    for a in range(2):
        sums = [sum(features[a, :, n] * shares[a, k, n] for n in range(30)) for k in range(4)]
        clusters = torch.stack([s / s.norm() for s in sums], dim=1).flatten()
        whole = head.token_features(token[a])
        both = torch.cat([whole / whole.norm(), clusters])
        assert torch.allclose(head(patches, token)[a], both / both.norm(), atol=1e-5)


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The same network at a size for tests, and its weights under the published names."""
    config = place_encoder_config()
    config.hidden_size, config.encoder_layers, config.encoder_heads = 16, 1, 2
    monkeypatch.setattr(salad, "place_encoder_config", lambda: config)
    monkeypatch.setattr(salad, "SaladHead", lambda: SaladHead(**SMALL))
    state = PlaceRecognizer(config, SaladHead(**SMALL)).state_dict()
    prefixes = {ours: published for published, ours in salad.OUR_PREFIXES.items()}
    return {
        prefixes[name.split(".")[0] + "."] + name.split(".", 1)[1]: value.contiguous()
        for name, value in state.items()
    }


@pytest.mark.parametrize("suffix", ["pt", "ckpt", "safetensors"])
def test_weights_come_back_from_either_kind_of_file(
    small_network: dict[str, Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"salad.{suffix}"
    half = {name: value.half() for name, value in small_network.items()}
    save_file(half, path) if suffix == "safetensors" else torch.save(half, path)
    model = load_place_recognizer(path, torch.device("cpu"))
    assert torch.equal(model.head.score[0].weight, half["aggregator.score.0.weight"].float())
    images = torch.randint(0, 256, (2, 3, 60, 90), dtype=torch.uint8)
    descriptors = model(images)
    assert descriptors.shape == (2, 5 + 4 * 3)
    assert torch.allclose(descriptors.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(model(images.float() / 255), descriptors, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("aggregator.dust_bin"), "lacks tensor aggregator.dust_bin"),
        (lambda state: state.update({"backbone.model.x": torch.zeros(1)}), "unknown tensor backbone.model.x"),
        (lambda state: state.update({"aggregator.dust_bin": torch.zeros(2)}), "another shape"),
        (lambda state: state.update({"encoder.x": torch.zeros(1)}), "is no DINOv2 SALAD"),
    ],
)
def test_other_weights_are_refused_in_one_line(
    small_network: dict[str, Tensor], tmp_path: Path, change, words: str
) -> None:
    change(small_network)
    torch.save(small_network, tmp_path / "salad.pt")
    with pytest.raises(UserError, match=words) as caught:
        load_place_recognizer(tmp_path / "salad.pt", torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_place_recognizer(tmp_path / "salad.pt", torch.device("cpu"))


def test_published_size() -> None:
    with torch.device("meta"):
        model = PlaceRecognizer(place_encoder_config(), SaladHead())
    sizes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert sizes["encoder.pos_embed"] == (1, 1370, 768)
    assert sizes["encoder.blocks.11.mlp.fc2.weight"] == (768, 3072)
    assert sizes["head.cluster_features.3.weight"] == (128, 512, 1, 1)
    assert sizes["head.score.3.weight"] == (64, 512, 1, 1)
    assert sizes["head.token_features.2.weight"] == (256, 512)
    assert "encoder.register_tokens" not in sizes
