"""Recompute the goldens of place recognition and loops (kinds salad, loop_search, fallback_loop_detector,
pipeline_tables) with our code under the reference's settings."""

from __future__ import annotations

import torch
from torch import Tensor

from scal3r_train.inference.chunking import chunk_ranges, provider_chunk_of_frame
from scal3r_train.inference.loop_closure.frame_descriptors import thumbnail_descriptor
from scal3r_train.inference.loop_closure.retrieval import (
    LoopCandidate,
    comparison_space,
    find_loop_candidates,
    similar_pairs,
    suppress_neighbours,
)
from scal3r_train.inference.loop_closure.settings import LoopSettings
from scal3r_train.inference.loop_closure.windows import plan_loop_windows
from scal3r_train.model.chunk_batch import reference_first_order, reference_index
from scal3r_train.model.salad import SaladHead
from tests.golden.reader import Golden


@torch.no_grad()
def check_salad(golden: Golden) -> dict[str, Tensor]:
    """Scores, transport with its dustbin, and the descriptor."""
    config = golden.config
    head = SaladHead(
        config["num_channels"],
        config["num_clusters"],
        config["cluster_dim"],
        config["token_dim"],
        config["hidden"],
    )
    head.load_state_dict(golden.weights(), strict=True)
    score = head.score(golden["in.feat"]).flatten(2)
    return {
        "mid.score": score,
        "mid.transport": head.transport(score),
        "out.descriptor": head(golden["in.feat"], golden["in.token"]),
    }


def _reference_settings(config: dict, threshold: str, radius: str) -> LoopSettings:
    """The release's search: raw descriptors, frames one by one, neighbours in time among the best."""
    return LoopSettings(
        num_components=0,
        temporal_window=1,
        min_similarity=config[threshold],
        top_k=config["top_k"],
        min_gap=config["min_gap"],
        nms_radius=config[radius],
        near_frames_compete=True,
        must_leave=False,
        max_candidates=10_000,
    )


def check_loop_search(golden: Golden) -> dict[str, Tensor]:
    """Pairs before and after suppression."""
    settings = _reference_settings(golden.config, "similarity_threshold", "nms_threshold")
    descriptors = golden["in.descriptors"]
    before = similar_pairs(comparison_space(descriptors, 0, 1), settings.fixed_threshold, settings)
    found = find_loop_candidates(descriptors, settings).candidates
    return {
        "mid.pairs_before_nms": torch.tensor([[pair.later, pair.earlier] for pair in before]),
        "out.pairs": torch.tensor([[pair.later, pair.earlier] for pair in found]),
        "out.similarity": torch.tensor([pair.similarity for pair in found]),
    }


def check_fallback_loop_detector(golden: Golden) -> dict[str, Tensor]:
    """Pairs from grey thumbnails."""
    images = golden["in.images_bgr_u8"].movedim(-1, 1).flip(1)
    settings = _reference_settings(golden.config, "threshold", "nms")
    found = find_loop_candidates(thumbnail_descriptor(images), settings).candidates
    return {"out.pairs": torch.tensor([[pair.earlier, pair.later] for pair in found])}


def check_pipeline_tables(golden: Golden) -> dict[str, Tensor]:
    """Chunks, providers, orders, suppression and loop windows; a table has no tensors, so it is compared here."""
    for table in golden.json["chunks"]:
        if table["overlap_size"] == 0:
            continue  # chunks that share no frame cannot be joined: refused by the settings
        ranges = chunk_ranges(table["n"], table["block_size"], table["overlap_size"])
        assert [[chunk.start, chunk.stop] for chunk in ranges] == table["ranges"]
        assert [chunk.start + reference_index(len(chunk)) for chunk in ranges] == table["reference_frames"]
        providers = provider_chunk_of_frame(table["n"], ranges, table["overlap_size"])
        assert providers == table["provider_chunk_of_frame"]
    for table in golden.json["reorder"]:
        assert reference_first_order(table["n"]) == table["order"]
    for table in golden.json["nms"]:
        pairs = [LoopCandidate(*pair) for pair in table["input"]]
        num_frames = 1 + max(pair.later for pair in pairs)
        kept = suppress_neighbours(pairs, num_frames, table["threshold"])
        assert [list(pair) for pair in kept] == table["output"]
    for table in golden.json["loop_blocks"]:
        ranges = [range(*chunk) for chunk in table["chunk_ranges"]]
        planned, _ = plan_loop_windows(
            table["pairs"], ranges, 2 * table["half_window"], allow_shared_frames=True
        )
        blocks = [
            [
                windows.first_chunk,
                [windows.first_frames.start, windows.first_frames.stop],
                windows.second_chunk,
                [windows.second_frames.start, windows.second_frames.stop],
            ]
            for windows in planned
        ]
        assert blocks == table["loop_blocks"]
        assert [windows.frames for windows in planned] == table["frames_of_loop_blocks"]
    return {}
