"""Recompute the network goldens (kinds amu, newton_schulz, rope2d, dino_vit, aggregator, small_signal, heads,
full_model) with our model; each function returns tensors under the golden's names."""

from __future__ import annotations

import torch
from torch import Tensor

from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.inference.alignment.neighbours import align_neighbours
from scal3r_train.inference.alignment.placement import place_chunks
from scal3r_train.inference.chunking import provider_chunk_of_frame
from scal3r_train.inference.network.segment_schedule import predict_chunks
from scal3r_train.model import fast_weight
from scal3r_train.model.aggregator import Aggregator, AggregatorBlock
from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.camera_head import CameraHead
from scal3r_train.model.chunk_batch import ChunkBatch, ImageBatch, reference_first_order
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import our_key_from_official
from scal3r_train.model.dpt_head import DPTHead
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.patch_encoder import DinoPatchEncoder, EncoderBlock
from scal3r_train.model.rope import TokenPositions, rotary_table, rotate, token_positions
from tests.golden.check_pose_graph import ALIGNMENT
from tests.golden.reader import Golden

DTYPES = {"bf16": "bfloat16", "fp32": "working"}


def _small_config(**sizes: object) -> Scal3RConfig:
    defaults = {
        "num_layers": 1,
        "tap_layers": [0],
        "memory_layers": [],
        "depth_head": False,
        "point_head": False,
    }
    return Scal3RConfig(**{**defaults, "patch_encoder": "conv", "camera_heads": 4, **sizes})


def _load(module: torch.nn.Module, weights: dict[str, Tensor]) -> torch.nn.Module:
    module.load_state_dict(weights, strict=True)
    return module.to(next(iter(weights.values())).device).eval()


def _amu_config(config: dict, **more: object) -> Scal3RConfig:
    return _small_config(
        hidden_size=config["dim"],
        num_heads=1,
        memory_heads=config["num_heads"],
        memory_expansion=config["inter_multi"],
        memory_base_lr=config["base_lr"],
        newton_schulz_steps=config["muon_update_steps"],
        rope_frequency=config["rope_frequency"] if config["rope"] else 0,
        num_register_tokens=config["patch_start_idx"] - 1,
        **more,
    )


def _chunk(x: Tensor, num_frames: int, positions: Tensor) -> ChunkBatch:
    tokens = x.reshape(1, 1, num_frames, -1, x.shape[-1])
    return ChunkBatch(tokens, TokenPositions(positions), (0,), None)


@torch.no_grad()
def check_amu(golden: Golden) -> dict[str, Tensor]:
    """All intermediate values, gradients, updates and outputs, for both Newton-Schulz precisions."""
    config, out = golden.config, {}
    unit = _load(AdaptiveMemoryUnit(_amu_config(config)), golden.weights())
    num_frames = config["frames_per_chunk"]
    chunks = []
    for index, frames in enumerate(num_frames):
        positions = golden[f"in.chunk{index}.pos"][0][: config["tokens_per_frame"]]
        chunks.append(_chunk(golden[f"in.chunk{index}.x"], frames, positions))
    gradients = [unit.chunk_gradient(chunk) for chunk in chunks]
    total = FastWeights(*(sum(matrices) for matrices in zip(*gradients, strict=True)))
    for index, (chunk, gradient) in enumerate(zip(chunks, gradients, strict=True)):
        out |= {f"out.chunk{index}.grad_{name}": value for name, value in gradient._asdict().items()}
        out |= {f"mid.chunk{index}.{name}": value for name, value in _projections(unit, chunk).items()}
    out |= {f"out.gradsum_{name}": value for name, value in total._asdict().items()}
    for label, dtype in DTYPES.items():
        unit.newton_schulz_dtype = dtype
        out |= _amu_outputs(unit, chunks, gradients[0], total, label)
    return out


def _projections(unit: AdaptiveMemoryUnit, chunk: ChunkBatch) -> dict[str, Tensor]:
    """Return queries, keys, values [E, L, D] and token rates, as they enter the fast-weight functions."""
    seen: list[Tensor] = []
    original = fast_weight.ascent_gradient
    fast_weight.ascent_gradient = lambda _weights, *rest: seen.extend(rest) or original(_weights, *rest)
    try:
        unit.chunk_gradient(chunk)
    finally:
        fast_weight.ascent_gradient = original
    keys, values, rates = seen
    queries = unit.queries(chunk)
    return {"q": queries[0], "k": keys[0], "v": values[0], "lr": torch.stack([rate[0] for rate in rates])}


def _amu_outputs(
    unit: AdaptiveMemoryUnit, chunks: list[ChunkBatch], first: FastWeights, total: FastWeights, label: str
) -> dict[str, Tensor]:
    dtype = torch.bfloat16 if label == "bf16" else torch.float32
    out = {
        f"out.{label}.ns_{name}": fast_weight.newton_schulz(value, unit.num_steps, dtype)
        for name, value in total._asdict().items()
    }
    weights = unit.updated_weights(total)
    out |= {f"out.{label}.new_{name}": value for name, value in weights._asdict().items()}
    out |= {f"out.{label}.chunk{i}.y": _memory_output(unit, chunk, weights) for i, chunk in enumerate(chunks)}
    out[f"out.{label}.single.y"] = _memory_output(unit, chunks[0], unit.updated_weights(first))
    answers = unit.answers(unit.queries(chunks[0]), weights)
    out[f"mid.{label}.chunk0.o_norm"] = answers.unflatten(-1, (unit.num_heads, -1)).transpose(1, 2)[0]
    out[f"mid.{label}.chunk0.shift_scale_gate"] = unit.proj(answers)
    return out


def _memory_output(unit: AdaptiveMemoryUnit, chunk: ChunkBatch, weights: FastWeights) -> Tensor:
    """Return the memory's contribution to every token: exactly zero for special tokens."""
    special = torch.zeros_like(chunk.tokens[..., : unit.num_special_tokens, :])
    output = unit.modulated(unit.answers(unit.queries(chunk), weights))
    patches = output.reshape(chunk.tokens[..., unit.num_special_tokens :, :].shape)
    return torch.cat([special, patches], dim=-2).flatten(0, 1).flatten(1, 2)


@torch.no_grad()
def check_newton_schulz(golden: Golden) -> dict[str, Tensor]:
    """The orthogonalisation alone."""
    return {
        f"out.{label}.{index}.steps{steps}": fast_weight.newton_schulz(golden[f"in.{index}.G"], steps, dtype)
        for label, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
        for index in range(len(golden.config["shapes"]))
        for steps in golden.config["steps"]
    }


def check_rope2d(golden: Golden) -> dict[str, Tensor]:
    """The rotary embedding alone; our token positions must be the golden's too."""
    config = golden.config
    positions = token_positions(*config["grid_hw"], config["special"], golden["in.pos"].device)
    table = rotary_table(positions, config["head_dim"], config["frequency"], torch.float32)
    rows = [rotary_table(p, config["head_dim"], config["frequency"], torch.float32) for p in golden["in.pos"]]
    assert torch.equal(golden["in.pos"], positions.expand_as(golden["in.pos"]))
    assert torch.equal(rows[0].cos, table.cos)
    return {"out.y": torch.stack([rotate(x, row) for x, row in zip(golden["in.x"], rows, strict=True)])}


def _encoder_config(config: dict, **more: object) -> Scal3RConfig:
    return _small_config(
        image_size=config["img_size"],
        hidden_size=config["embed_dim"],
        num_heads=config["num_heads"],
        encoder_heads=config["num_heads"],
        encoder_layers=config["depth"],
        mlp_ratio=config["mlp_ratio"],
        num_register_tokens=config["num_register_tokens"],
        encoder_antialias=config["interpolate_antialias"],
        encoder_position_offset=config["interpolate_offset"],
        **more,
    )


@torch.no_grad()
def check_dino_vit(golden: Golden) -> dict[str, Tensor]:
    """The patch encoder at its own and at resampled resolutions."""
    config, out = golden.config, {}
    encoder = _load(DinoPatchEncoder(_encoder_config(config)), golden.weights())
    num_registers = config["num_register_tokens"]
    for index in range(len(config["sizes_hw"])):
        images = golden[f"in.{index}.x"]
        tokens = encoder.encode(images)
        out[f"mid.{index}.tokens_in"] = encoder.embed(images)
        out[f"out.{index}.cls"] = tokens[:, 0]
        if num_registers:
            out[f"out.{index}.reg"] = tokens[:, 1 : 1 + num_registers]
        out[f"out.{index}.patch"] = tokens[:, 1 + num_registers :]
    return out


def _aggregator_config(config: dict, memory: dict, **more: object) -> Scal3RConfig:
    return _small_config(
        **{
            "image_size": config["img_size"],
            "patch_size": config.get("patch_size", 14),
            "hidden_size": config["embed_dim"],
            "num_layers": config["depth"],
            "num_heads": config["num_heads"],
            "mlp_ratio": config["mlp_ratio"],
            "num_register_tokens": config["num_register_tokens"],
            "patch_encoder": config["patch_embed"],
            "tap_layers": config["intermediate_layer_idx"],
            "memory_layers": config["ttt_layer_idx"],
            "memory_heads": memory["num_heads"],
            "memory_expansion": memory["inter_multi"],
            "memory_base_lr": memory["base_lr"],
            "newton_schulz_steps": memory["muon_update_steps"],
            **more,
        }
    )


def _aggregator_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    official = {f"agg_regator.{key}": value for key, value in weights.items()}
    return {our_key_from_official(key).removeprefix("aggregator."): value for key, value in official.items()}


def _in_processing_order(images: Tensor) -> Tensor:
    """Undo the aggregator's own reordering, for goldens whose input is in processing order already."""
    order = reference_first_order(images.shape[2])
    return images[:, :, sorted(range(len(order)), key=order.__getitem__)]


@torch.no_grad()
def check_aggregator(golden: Golden) -> dict[str, Tensor]:
    """Every layer of the aggregator, with and without memory, for both Newton-Schulz precisions."""
    config, out = golden.config, {}
    num_chunks = len(config["frames_per_chunk"])
    batches = []
    for index in range(num_chunks):
        pixels = golden[f"in.chunk{index}.images_u8"][None].float() / 255
        batches.append(ImageBatch(_in_processing_order(pixels), (0,), ((0, index),), None))
    weights = _aggregator_weights(golden.weights())
    for label, dtype in DTYPES.items():
        model_config = _aggregator_config(config["aggregator"], config["ttt"], newton_schulz_dtype=dtype)
        out |= _trace_aggregator(_load(Aggregator(model_config), weights), batches, label, model_config)
    without = _aggregator_config(config["aggregator"], config["ttt"], memory_layers=[])
    plain = {key: value for key, value in weights.items() if not key.startswith("memory_units.")}
    trace = _trace_aggregator(_load(Aggregator(without), plain), batches, "noamu", without)
    last = without.num_layers - 1
    out |= {
        f"out.noamu.chunk{i}.tokens": trace[f"out.noamu.chunk{i}.layer{last}.tokens"]
        for i in range(num_chunks)
    }
    return {key: value for key, value in out.items() if key in golden.tensors}


def _trace_aggregator(
    aggregator: Aggregator, batches: list[ImageBatch], label: str, config: Scal3RConfig
) -> dict[str, Tensor]:
    """Run the aggregator recording every block's output under the golden's names."""
    out: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    prefixes = [f"mid.{label}.", f"out.{label}.", *(["mid."] if label == "fp32" else [])]

    def record(name: str):
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            index = counts[name] = counts.get(name, -1) + 1
            for prefix in prefixes:
                out[f"{prefix}chunk{index}.{name}"] = output.reshape(1, *shapes[index])

        return hook

    embedded = [aggregator.embed(batch) for batch in batches]
    shapes = [tokens.tokens.shape[2:] for tokens in embedded]  # chunks may differ in length
    handles = []
    for j in range(config.num_layers):
        is_memory = str(j) in aggregator.memory_units
        handles.append(aggregator.frame_blocks[j].register_forward_hook(record(f"layer{j}.frame")))
        global_name = f"layer{j}.before_amu" if is_memory else f"layer{j}.tokens"
        handles.append(aggregator.global_blocks[j].register_forward_hook(record(global_name)))
    taps = [features.taps for features in aggregator(batches, 1, config.tap_layers)]
    for handle in handles:
        handle.remove()
    for index, (tokens, chunk_taps) in enumerate(zip(embedded, taps, strict=True)):
        out[f"mid.chunk{index}.embed"] = tokens.tokens[0, 0]
        for j, tap in chunk_taps.items():
            for prefix in prefixes:
                out[f"{prefix}chunk{index}.feat{j}"] = torch.cat(tap, dim=-1)[0]
                out[f"{prefix}chunk{index}.layer{j}.tokens"] = tap.layer_half[0]
    return out


@torch.no_grad()
def check_small_signal(golden: Golden) -> dict[str, Tensor]:
    """Single modules on tiny activations, which pin every epsilon."""
    config = golden.config
    taps = [golden[f"in.feat{i}"] for i in range(4)]
    memory_sizes = {
        "dim": config["dim"],
        "rope": True,
        "rope_frequency": 100.0,
        "patch_start_idx": config["special"],
    }
    model_config = _amu_config({**config["amu"], **memory_sizes})
    model_config.num_heads, model_config.camera_layers = config["heads"], config["trunk_depth"]
    model_config.dpt_features, model_config.dpt_channels = config["features"], config["out_channels"]
    model_config.camera_heads = 4
    x, positions = golden["in.x"], golden["in.pos"][0]
    table = rotary_table(positions, config["dim"] // config["heads"], 100.0, torch.float32)
    unit = _load(AdaptiveMemoryUnit(model_config), golden.weights("amu."))
    chunk = _chunk(x, config["frames"], positions[: config["tokens_per_frame"]])
    gradient = unit.chunk_gradient(chunk)
    out = {f"out.amu.grad_{name}": value for name, value in gradient._asdict().items()}
    out["out.amu.fp32.y"] = _memory_output(unit, chunk, unit.updated_weights(gradient))
    out["out.agg.y"] = _load(AggregatorBlock(model_config), golden.weights("agg."))(x, table)
    out["out.enc.y"] = _load(EncoderBlock(config["dim"], config["heads"], 4.0), golden.weights("enc."))(x)
    out |= _check_heads(
        golden,
        model_config,
        taps,
        config["special"],
        config["grid_hw"],
        {"cam.": "out.cam.pose_enc_iters", "depth.": "out.depth"},
    )
    return out


@torch.no_grad()
def check_heads(golden: Golden) -> dict[str, Tensor]:
    """Camera, depth and point head on given taps, with the depth head's intermediate maps."""
    config = golden.config
    taps = [golden[f"in.feat{i}"] for i in config["layers"]]
    model_config = _small_config(
        hidden_size=config["dim_in"] // 2,
        num_heads=1,
        camera_layers=config["trunk_depth"],
        camera_heads=config["camera_heads"],
        dpt_features=config["features"],
        dpt_channels=config["out_channels"],
    )
    out = _check_heads(
        golden,
        model_config,
        taps,
        config["special"],
        config["grid_hw"],
        {"cam.": "out.pose_enc_iters", "depth.": "out.depth", "point.": "out.point"},
    )
    depth_head = _load(DPTHead(model_config, 2, "exp"), golden.weights("depth."))
    first = [tap[0, :2, config["special"] :] for tap in taps]
    levels = [depth_head.project(level, tap, tuple(config["grid_hw"])) for level, tap in enumerate(first)]
    out |= {f"mid.depth.resize{level}": value for level, value in enumerate(levels)}
    for level in (1, 2, 3, 4):
        fusion = getattr(depth_head.scratch, f"refinenet{level}")
        name = f"mid.depth.refine{level}"
        fusion.register_forward_hook(lambda _m, _i, y, name=name: out.__setitem__(name, y))
    out["mid.depth.conv1"] = depth_head.scratch.output_conv1(depth_head.scratch.fuse(levels))
    return out


def _check_heads(
    golden: Golden,
    config: Scal3RConfig,
    taps: list[Tensor],
    special: int,
    grid: list[int],
    names: dict[str, str],
) -> dict[str, Tensor]:
    out = {}
    for prefix, name in names.items():
        weights = golden.weights(prefix)
        if prefix == "cam.":
            out[name] = _load(CameraHead(config), weights)(taps[-1][:, :, 0])[:, 0]
            continue
        head = DPTHead(config, 2, "exp") if prefix == "depth." else DPTHead(config, 4, "inverse_log")
        values, conf = _load(head, weights)([[tap[0]] for tap in taps], tuple(grid))
        out |= {f"{name}.pred": values, f"{name}.conf": conf}
    return out


@torch.no_grad()
def check_full_model(golden: Golden) -> dict[str, Tensor]:
    """The whole model on an overlapping chunking, up to the aligned trajectory."""
    out: dict[str, Tensor] = {}
    for label, dtype in DTYPES.items():
        out |= _run_full_model(golden, label, dtype)
    return out


def _full_model_config(config: dict, dtype: str) -> Scal3RConfig:
    sizes, camera, dense = config["aggregator"], config["camera_head"], config["depth_head"]
    encoder = config["patch_encoder"]
    return _aggregator_config(
        sizes,
        sizes["ttt_cfg"],
        newton_schulz_dtype=dtype,
        depth_head=True,
        point_head=True,
        patch_encoder="dinov2",
        encoder_layers=encoder["depth"],
        encoder_heads=encoder["num_heads"],
        encoder_antialias=encoder["interpolate_antialias"],
        encoder_position_offset=encoder["interpolate_offset"],
        camera_layers=camera["trunk_depth"],
        camera_heads=camera["num_heads"],
        camera_iterations=camera["iterations"],
        dpt_features=dense["features"],
        dpt_channels=dense["out_channels"],
        dpt_refine_channels=dense["head_features_2"],
    )


def _run_full_model(golden: Golden, label: str, dtype: str) -> dict[str, Tensor]:
    config = golden.config
    model = Scal3RModel(_full_model_config(config, dtype))
    _load(model, {our_key_from_official(key): value for key, value in golden.weights().items()})
    frames = golden["in.frames_u8"].movedim(-1, 1).float() / 255
    chunks = [frames[start:end] for start, end in config["chunk_ranges"]]
    result = model([chunks])
    out: dict[str, Tensor] = {}
    for index in range(len(chunks)):
        order = reference_first_order(len(chunks[index]))
        prefix = f"out.{label}.chunk{index}."
        out[prefix + "pose_enc_iters"] = result.pose_encoding_stages[0][index][:, order]
        out[prefix + "depth"] = result.depth[0][index][order]
        out[prefix + "depth_conf"] = result.depth_conf[0][index][order]
        out[prefix + "points"] = result.world_points[0][index][order]
        out[prefix + "points_conf"] = result.world_points_conf[0][index][order]
    batches = [ImageBatch(chunk[None, None], (0,), ((0, i),), None) for i, chunk in enumerate(chunks)]
    taps = [features.taps for features in model.aggregator(batches, 1, model.config.tap_layers)]
    for index, chunk_taps in enumerate(taps):
        out |= {
            f"mid.{label}.chunk{index}.feat{j}": torch.cat(tap, dim=-1)[0, 0] for j, tap in chunk_taps.items()
        }
        out[f"mid.chunk{index}.src_inds"] = torch.tensor(
            [config["chunk_ranges"][index][0] + i for i in reference_first_order(len(chunks[index]))]
        )
    out |= {f"out.{label}.final.{name}": value for name, value in _reconstruct(golden, model).items()}
    return {key: value for key, value in out.items() if key in golden.tensors}


def _reconstruct(golden: Golden, model: Scal3RModel) -> dict[str, Tensor]:
    """Cameras of all frames as reconstruction finds them: c2w with the chunk's scale, in chunk 0's coordinates."""
    frames = golden["in.frames_u8"].movedim(-1, 1)
    ranges = [range(start, stop) for start, stop in golden.config["chunk_ranges"]]
    providers = provider_chunk_of_frame(len(frames), ranges, golden.config["overlap_size"])
    images = {k: frames[chunk.start : chunk.stop] for k, chunk in enumerate(ranges)}
    predictions = predict_chunks(model, images)
    seams = align_neighbours(predictions, {}, ranges, ALIGNMENT, "depth")
    worlds = place_chunks([seams[k] for k in sorted(seams)], torch.eye(3, 4))
    c2w, ixt = [], []
    for k, chunk in enumerate(ranges):
        num_provided = providers.count(k)
        first = providers.index(k) - chunk.start
        part = predictions[k].frames(slice(first, first + num_provided))
        chunk_from_cam = torch.eye(4, dtype=torch.float64).repeat(num_provided, 1, 1)
        chunk_from_cam[:, :3] = invert_extrinsics(part.extrinsics)
        c2w.append(worlds[k].matrix() @ chunk_from_cam)
        ixt.append(part.intrinsics)
    return {"c2w": torch.cat(c2w), "ixt": torch.cat(ixt)}
