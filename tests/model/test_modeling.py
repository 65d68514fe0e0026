"""The whole model: forms of input, frame order, heads, precision, gradients.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

import pytest
import torch
from torch import Tensor

from scal3r_train.model import fast_weight
from scal3r_train.model.chunk_batch import batch_images, reference_first_order
from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput
from tests.model.tiny import FIELDS, IMAGE_HW, random_images, scalar, tiny_model

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def assert_chunk_close(
    output: Scal3ROutput, place: tuple[int, int], other: Scal3ROutput, there: tuple[int, int]
):
    for name in FIELDS:
        found, expected = chunk_of(output, name, place), chunk_of(other, name, there)
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)


def chunk_of(output: Scal3ROutput, name: str, place: tuple[int, int]) -> Tensor:
    """Return one chunk's prediction whatever the form of the output."""
    value = output[name]
    if isinstance(value, Tensor):
        return value[:, place[0], place[1]] if name == "pose_encoding_stages" else value[place]
    return value[place[0]][place[1]]


@pytest.fixture(scope="module")
def model() -> Scal3RModel:
    return tiny_model()


def test_shapes_of_the_outputs(model):
    output = model(random_images(2, 3, 4))
    height, width = IMAGE_HW
    shapes = {name: tuple(output[name].shape) for name in FIELDS}
    assert shapes == {
        "pose_encoding": (2, 3, 4, 9),
        "pose_encoding_stages": (2, 2, 3, 4, 9),
        "depth": (2, 3, 4, height, width),
        "depth_conf": (2, 3, 4, height, width),
        "world_points": (2, 3, 4, height, width, 3),
        "world_points_conf": (2, 3, 4, height, width),
    }
    assert torch.equal(output.pose_encoding_stages[-1], output.pose_encoding)


def test_lists_of_equal_chunks_equal_a_tensor(model):
    images = random_images(2, 3, 4)
    tensor = model(images)
    nested = model([list(sequence) for sequence in images])
    assert nested.pose_encoding_stages[1][2].shape == (2, 4, 9)
    for sequence in range(2):
        for chunk in range(3):
            assert_chunk_close(nested, (sequence, chunk), tensor, (sequence, chunk))


def test_unequal_chunks_share_a_memory_and_may_come_in_any_order(model):
    chunks = [random_images(num_frames, seed=seed) for seed, num_frames in enumerate((2, 3, 1, 3))]
    output = model([chunks])
    order = [2, 0, 3, 1]
    shuffled = model([[chunks[i] for i in order]])
    for place, chunk in enumerate(order):
        assert_chunk_close(shuffled, (0, place), output, (0, chunk))
    split = model([chunks[:2]])
    assert not torch.allclose(split.depth[0][0], output.depth[0][0])


def test_sequences_of_a_call_do_not_mix(model):
    sequences = [[random_images(2, seed=1), random_images(3, seed=2)], [random_images(2, seed=3)]]
    together = model(sequences)
    for index, sequence in enumerate(sequences):
        alone = model([sequence])
        for chunk in range(len(sequence)):
            assert_chunk_close(together, (index, chunk), alone, (0, chunk))


def test_a_sequence_without_chunks_here_gets_an_empty_list(model):
    images = random_images(2, seed=1)
    output = model([[], [images]])
    assert [len(sequence) for sequence in output.depth] == [0, 1]
    assert_chunk_close(output, (1, 0), model([[images]]), (0, 0))
    nothing = model([[]])
    assert all(nothing[name] == [[]] for name in FIELDS)


@pytest.mark.parametrize("chunks_per_pass", [1, 2])
def test_chunks_may_pass_a_few_at_a_time(chunks_per_pass):
    model = tiny_model()
    images, mask = random_images(2, 3, 2), torch.tensor([[True, True, True], [True, False, True]])
    nested = [list(images[0]), [images[1, 0], images[1, 2]]]
    expected, expected_nested = model(images, mask), model(nested)
    shapes = []
    model.aggregator.patch_embed.register_forward_hook(
        lambda _m, inputs, _y: shapes.append(inputs[0].shape[1])
    )
    model.chunks_per_pass = chunks_per_pass
    output, output_nested = model(images, mask), model(nested)
    assert max(shapes) == chunks_per_pass
    for sequence, chunks in enumerate(((0, 1, 2), (0, 2))):
        for place, chunk in enumerate(chunks):
            assert_chunk_close(output, (sequence, chunk), expected, (sequence, chunk))
            assert_chunk_close(output_nested, (sequence, place), expected_nested, (sequence, place))


def test_padding_chunks_change_nothing(model):
    images = random_images(1, 3, 2)
    mask = torch.tensor([[True, False, True]])
    padded = model(images, chunk_mask=mask)
    dense = model(images[:, [0, 2]])
    assert_chunk_close(padded, (0, 0), dense, (0, 0))
    assert_chunk_close(padded, (0, 2), dense, (0, 1))
    unmasked = model(images)
    assert not torch.allclose(unmasked.depth[0, 0], padded.depth[0, 0])


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5])
def test_outputs_are_in_temporal_order(model, num_frames):
    """The heads applied to single frames of the aggregator's output, which is in processing order."""
    images = random_images(1, 2, num_frames)
    expected = model(images)
    order = reference_first_order(num_frames)
    taps = model.config.tap_layers
    (features,) = model.aggregator(batch_images(images, None), 1, taps)
    halves = features.taps
    tap = {j: torch.cat(pair, dim=-1) for j, pair in halves.items()}
    poses = model.camera_head(tap[3][0, :, :, 0])
    for position, frame in enumerate(order):
        torch.testing.assert_close(
            poses[:, :, position], expected.pose_encoding_stages[:, 0, :, frame], **CLOSE
        )
        patches = [[tap[j][0, :, position, model.config.num_special_tokens :]] for j in taps]
        depth, _ = model.depth_head(patches, (2, 3))
        torch.testing.assert_close(depth[..., 0], expected.depth[0, :, frame], **CLOSE)


@pytest.mark.parametrize("num_frames", [2, 4, 5])
def test_permuting_the_other_frames_permutes_their_outputs(model, num_frames):
    """Without a frame index the network only knows the reference frame: the rest may come in any order."""
    images = random_images(1, 2, num_frames)
    reference = reference_first_order(num_frames)[0]
    others = [frame for frame in range(num_frames) if frame != reference][::-1]
    order = [*others[:reference], reference, *others[reference:]]
    expected, found = model(images), model(images[:, :, order])
    for name in FIELDS:
        axis = 3 if name == "pose_encoding_stages" else 2
        permuted = expected[name].index_select(axis, torch.tensor(order))
        torch.testing.assert_close(found[name], permuted, **CLOSE)


def test_the_reference_frame_is_special(model):
    images = random_images(1, 1, 3)
    swapped = images[:, :, [1, 0, 2]]
    expected, found = model(images), model(swapped)
    assert not torch.allclose(found.pose_encoding[0, 0, 0], expected.pose_encoding[0, 0, 1], atol=1e-4)


def test_the_same_input_twice_gives_the_same_output(model):
    images = random_images(1, 2, 3)
    first, second = model(images), model(images)
    assert all(torch.equal(first[name], second[name]) for name in FIELDS)


def test_images_smaller_than_the_special_tokens(model):
    """One patch per frame, three special tokens (docs/numerics.md#departures-from-the-release)."""
    output = model(torch.rand(1, 2, 2, 3, 4, 4, dtype=torch.float64))
    assert output.depth.shape == (1, 2, 2, 4, 4)


@pytest.mark.parametrize("encoder", ["dinov2", "conv", "correlation", "direct"])
def test_without_rotary_embedding(encoder):
    model = tiny_model(rope_frequency=0, patch_encoder=encoder)
    output = model(random_images(1, 2, 3))
    assert all(output[name].isfinite().all() for name in FIELDS)


@pytest.mark.parametrize("encoder", ["dinov2", "conv", "correlation", "direct"])
def test_every_parameter_gets_a_gradient(encoder):
    """In training mode, where the release raises; DINOv2's unused mask token is not a trainable parameter."""
    model = tiny_model(patch_encoder=encoder).train()
    scalar(model(random_images(1, 2, 3))).backward()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == ({"aggregator.patch_embed.mask_token"} if encoder == "dinov2" else set())
    for name, parameter in model.named_parameters():
        if name not in frozen:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_gradients_equal_finite_differences(model):
    """The whole model along a random direction of all parameters."""
    images = random_images(1, 2, 2)
    parameters = list(model.parameters())
    model.zero_grad()
    scalar(model(images)).backward()
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True))

    def moved(step: float) -> Tensor:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += step * direction
            value = scalar(model(images))
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter -= step * direction
        return value

    torch.testing.assert_close((moved(1e-6) - moved(-1e-6)) / 2e-6, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("switches", "missing"),
    [
        ({"point_head": False}, {"world_points", "world_points_conf"}),
        ({"depth_head": False}, {"depth", "depth_conf"}),
        ({"camera_head": False}, {"pose_encoding", "pose_encoding_stages"}),
    ],
)
def test_heads_switched_off_leave_none(switches, missing):
    model = tiny_model(**switches)
    output = model(random_images(1, 1, 2))
    assert {name for name in FIELDS if getattr(output, name) is None} == missing
    names = {"point_head": "points", "depth_head": "depth", "camera_head": "camera"}
    (absent,) = (names[name] for name in switches)
    with pytest.raises(ValueError, match=f"the model has no '{absent}' head; it has "):
        model(random_images(1, 1, 2), heads=[absent])


@pytest.mark.parametrize(
    ("heads", "fields"),
    [(["camera"], FIELDS[:2]), (["depth"], FIELDS[2:4]), (["points"], FIELDS[4:]), ([], ())],
)
def test_only_the_heads_asked_for_run(model, heads, fields):
    images = random_images(1, 2, 2)
    everything, output = model(images), model(images, heads=heads)
    assert set(output.keys()) == set(fields)
    for name in fields:
        torch.testing.assert_close(output[name], everything[name], **CLOSE)


def test_without_memory_chunks_are_independent():
    model = tiny_model(memory_layers=[])
    images = random_images(1, 2, 2)
    together, alone = model(images), model(images[:, :1])
    assert_chunk_close(together, (0, 0), alone, (0, 0))


def test_sides_must_be_multiples_of_the_patch(model):
    with pytest.raises(ValueError, match="image size 8x10 must be a multiple of the patch size 4"):
        model(torch.rand(1, 1, 1, 3, 8, 10))


@pytest.fixture
def memory_dtypes(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Record the dtypes inside every memory update."""
    seen: list[torch.dtype] = []
    original = fast_weight.update

    def recording(weights, gradient, *rest):
        updated = original(weights, gradient, *rest)
        seen.extend(matrix.dtype for matrix in (*weights, *gradient, *updated))
        return updated

    monkeypatch.setattr(fast_weight, "update", recording)
    return seen


def test_autocast_keeps_fast_weights_and_heads_in_float32(memory_dtypes):
    model = tiny_model(torch.float32, patch_encoder="dinov2").train()
    images = random_images(1, 2, 2, dtype=torch.float32)
    block_dtypes, head_dtypes = [], []
    model.aggregator.frame_blocks[0].mlp.fc1.register_forward_hook(
        lambda _m, _i, y: block_dtypes.append(y.dtype)
    )
    model.depth_head.projects[0].register_forward_hook(lambda _m, _i, y: head_dtypes.append(y.dtype))
    model.camera_head.trunk[0].register_forward_hook(lambda _m, _i, y: head_dtypes.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        scalar(output).backward()
    assert set(memory_dtypes) == {torch.float32}
    assert set(block_dtypes) == {torch.bfloat16}
    assert set(head_dtypes) == {torch.float32}
    assert all(output[name].dtype == torch.float32 for name in FIELDS)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


def test_bfloat16_weights_keep_fast_weight_maths_in_float32(memory_dtypes):
    model = tiny_model(torch.bfloat16, patch_encoder="dinov2").train()
    output = model(random_images(1, 2, 2, dtype=torch.float32))
    assert set(memory_dtypes) == {torch.float32}
    scalar(output).backward()
    assert all(output[name].isfinite().all() for name in FIELDS)
    exact = tiny_model(torch.float64, patch_encoder="dinov2")
    exact.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    expected = exact(random_images(1, 2, 2))
    error = (output.depth.double() - expected.depth).norm() / expected.depth.norm()
    assert error < 0.05


def test_bfloat16_images_into_a_float32_model():
    model = tiny_model(torch.float32)
    images = random_images(1, 2, 2, dtype=torch.bfloat16)
    output, expected = model(images), model(images.float())
    assert all(torch.equal(output[name], expected[name]) for name in FIELDS)


def test_the_patch_encoder_is_the_input_embedding_and_can_be_replaced():
    """Adapters of frozen models ask for it (`enable_input_require_grads`)."""
    model, images = tiny_model().requires_grad_(requires_grad=False), random_images(1, 2, 2)
    assert model.get_input_embeddings() is model.aggregator.patch_embed
    assert model.get_output_embeddings() is None
    model.enable_input_require_grads()
    assert model(images).depth.requires_grad
    model.disable_input_require_grads()
    assert not model(images).depth.requires_grad
    other = tiny_model(patch_encoder="dinov2")
    model.set_input_embeddings(other.get_input_embeddings())
    other.aggregator.load_state_dict(model.aggregator.state_dict())
    for head in ("camera_head", "depth_head", "point_head"):
        getattr(other, head).load_state_dict(getattr(model, head).state_dict())
    torch.testing.assert_close(model(images).depth, other(images).depth, **CLOSE)
