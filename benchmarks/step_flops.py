"""Floating-point operations of one training step in closed form: what torch counts should be near
(monitoring/flop_count.py).
"""

from __future__ import annotations

from scal3r_train.model.configuration_scal3r import Scal3RConfig


def closed_form_flops(config: Scal3RConfig, images_shape: tuple[int, ...]) -> float:
    """Return 3 x the forward products of blocks and memories; heads, which are convolutions, are left out.

    A linear layer from a to b channels costs 2ab per token. With C channels, MLP ratio r, N tokens per frame, S frames
    per chunk, x = memory_expansion, D = C / memory_heads:

        block: C^2 (8 + 4r) per token, and 4 C per token and token attended to (N in frame, S N in global attention)
        memory, per patch token: qkv and proj 12 C^2; write 6 products, read 3 products with 2 x C D each
        memory, per sequence: 5 Newton-Schulz steps on 3 matrices of D x xD: 2 (2 D^2 xD + D^3) each

    Backward costs twice the forward.
    """
    num_sequences, num_chunks, num_frames, _, height, width = images_shape
    dim, head_dim = config.hidden_size, config.hidden_size // config.memory_heads
    patches = (height // config.patch_size) * (width // config.patch_size)
    tokens, inner = patches + config.num_special_tokens, config.memory_expansion * head_dim
    frames = num_sequences * num_chunks * num_frames
    linear = dim**2 * (8 + 4 * config.mlp_ratio)
    encoder = config.encoder_layers if config.patch_encoder == "dinov2" else 0
    in_frame, in_chunk = 4 * dim * tokens, 4 * dim * tokens * num_frames
    per_token = (encoder + config.num_layers) * (linear + in_frame) + config.num_layers * (linear + in_chunk)
    per_patch = 12 * dim**2 + 9 * 2 * dim * inner
    steps = 3 * config.newton_schulz_steps * config.memory_heads
    per_sequence = steps * 2 * (2 * head_dim**2 * inner + head_dim**3)
    memories = len(config.memory_layers) * (frames * patches * per_patch + num_sequences * per_sequence)
    return 3.0 * (frames * tokens * per_token + memories)
