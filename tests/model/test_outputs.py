"""What a call returns beside the predictions: hidden states, attentions, and tuples in place of named fields."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from scal3r_eval.study.predict import AS_TRAINED, predict_chunks
from scal3r_train import reconstruct
from scal3r_train.model import block
from scal3r_train.model.chunk_batch import reference_first_order
from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput
from scal3r_train.parallel.fsdp2 import Fsdp2Engine
from scal3r_train.parallel.process import Process
from scal3r_train.parallel.torch_engine import ReplicatedEngine
from scal3r_train.parallel.zero import ZeroEngine
from tests.inference.conftest import image_folder, make_tiny_model  # noqa: F401  a fixture
from tests.model.tiny import FIELDS, IMAGE_HW, random_images, tiny_model

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
ENGINES = {engine.__name__: engine for engine in (ReplicatedEngine, ZeroEngine, Fsdp2Engine)}
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)


@pytest.fixture(scope="module")
def model() -> Scal3RModel:
    return tiny_model()


def outputs_by_hooks(model: Scal3RModel, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return what goes into the first frame block, and what each layer gives: its memory's answer or its block's."""
    first, given = [], {}
    aggregator = model.aggregator
    hooks = [aggregator.frame_blocks[0].register_forward_pre_hook(lambda _m, inputs: first.append(inputs[0]))]
    for layer, passed in enumerate(aggregator.global_blocks):
        hooks.append(passed.register_forward_hook(lambda _m, _i, y, layer=layer: given.__setitem__(layer, y)))
    for layer, unit in aggregator.memory_units.items():

        def answered(_m, inputs, answer, layer=int(layer)):
            if inputs[0] == "read":
                given[layer] = answer

        hooks.append(unit.register_forward_hook(answered))
    model(images)
    for hook in hooks:
        hook.remove()
    return first, [given[layer] for layer in range(model.config.num_layers)]


def test_hidden_states_are_the_tokens_before_the_layers_and_after_each(model):
    images = random_images(2, 3, 4)
    hidden = model(images, output_hidden_states=True).hidden_states
    (first,), layers = outputs_by_hooks(model, images)
    num_tokens = model.config.num_special_tokens + (IMAGE_HW[0] // 4) * (IMAGE_HW[1] // 4)
    shape = (2, 3, 4, num_tokens, model.config.hidden_size)
    assert [state.shape for state in hidden] == [shape] * (model.config.num_layers + 1)
    assert torch.equal(hidden[0].flatten(0, 2), first)
    for state, layer in zip(hidden[1:], layers, strict=True):
        assert torch.equal(state, layer.reshape(shape))


def test_their_frames_are_in_processing_order(model):
    images = random_images(1, 2, 4)
    embedded = model(images, heads=[], output_hidden_states=True).hidden_states[0]
    patches = model.aggregator.patch_embed((images - MEAN) / STD)
    of_frames = embedded[:, :, :, model.config.num_special_tokens :]
    torch.testing.assert_close(of_frames, patches[:, :, reference_first_order(4)])


@pytest.mark.parametrize("scope", ["sequence", "chunk"])
def test_hidden_states_come_in_the_form_of_the_call_and_change_no_prediction(scope):
    model = tiny_model(memory_scope=scope)
    images = random_images(2, 3, 2)
    expected = model(images)
    assert expected.hidden_states is None
    whole = model(images, output_hidden_states=True)
    assert all(torch.equal(whole[name], expected[name]) for name in FIELDS)
    model.chunks_per_pass = 2
    parts = model(images, output_hidden_states=True)
    nested = model([list(sequence) for sequence in images], output_hidden_states=True)
    for state, part, chunks in zip(
        whole.hidden_states, parts.hidden_states, nested.hidden_states, strict=True
    ):
        torch.testing.assert_close(part, state, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            torch.stack([torch.stack(s) for s in chunks]), state, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("mode", ["none", "segments"])
def test_gradients_reach_the_hidden_states_themselves(mode):
    model = tiny_model().train()
    model.set_activation_checkpointing(mode)
    output = model(random_images(1, 2, 2), output_hidden_states=True)
    for state in output.hidden_states:
        state.retain_grad()
    output.pose_encoding.sum().backward()
    assert all(state.grad is not None and state.grad.abs().sum() > 0 for state in output.hidden_states)


def test_a_tuple_has_the_fields_that_are_not_none_in_their_order(model):
    images = random_images(1, 1, 2)
    named = model(images, heads=["depth"], output_hidden_states=True)
    found = model(images, heads=["depth"], output_hidden_states=True, return_dict=False)
    assert list(named) == ["depth", "depth_conf", "hidden_states"]
    assert isinstance(found, tuple)
    assert torch.equal(found[0], named.depth)
    assert torch.equal(found[1], named.depth_conf)
    assert all(map(torch.equal, found[2], named.hidden_states))


def test_the_configuration_decides_where_the_call_does_not():
    model, images = tiny_model(output_hidden_states=True, return_dict=False), random_images(1, 1, 2)
    found = model(images)
    assert isinstance(found, tuple)
    assert len(found) == len(FIELDS) + 1
    assert list(model(images, output_hidden_states=False, return_dict=True)) == list(FIELDS)


def weights_by_sdpa(model: Scal3RModel, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return every block's weights in the order of the calls: what torch's kernel makes of a unit matrix as values."""
    found: list[Tensor] = []
    plain = block.sdpa

    def spy(module, query, key, value, mask, **options):
        unit = torch.eye(key.shape[-2], dtype=key.dtype).expand(*key.shape[:2], -1, -1)
        found.append(torch.nn.functional.scaled_dot_product_attention(query, key, unit))
        return plain(module, query, key, value, mask, **options)

    monkeypatch.setattr(block, "sdpa", spy)
    model(images, heads=[])
    monkeypatch.setattr(block, "sdpa", plain)
    return found


def test_attentions_are_the_weights_that_torch_s_kernel_uses(model, monkeypatch):
    images = random_images(2, 3, 4)
    config = model.config
    output = model(images, output_attentions=True)
    num_tokens = config.num_special_tokens + (IMAGE_HW[0] // 4) * (IMAGE_HW[1] // 4)
    assert len(output.attentions) == len(output.global_attentions) == config.num_layers
    frame, whole = (2 * 3 * 4, 2, num_tokens, num_tokens), (2 * 3, 2, 4 * num_tokens, 4 * num_tokens)
    expected = weights_by_sdpa(model, images, monkeypatch)
    for layer in range(config.num_layers):
        of_frames, of_chunks = output.attentions[layer], output.global_attentions[layer]
        assert (of_frames.shape, of_chunks.shape) == (frame, whole)
        torch.testing.assert_close(of_frames, expected[2 * layer], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(of_chunks, expected[2 * layer + 1], rtol=1e-9, atol=1e-12)
    plain = model(images)
    assert plain.attentions is None and plain.global_attentions is None
    for name in FIELDS:
        torch.testing.assert_close(output[name], plain[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scope", ["sequence", "chunk"])
def test_attentions_come_in_the_form_of_the_call(scope):
    model = tiny_model(memory_scope=scope)
    images = random_images(2, 3, 2)
    whole = model(images, output_attentions=True)
    nested = model([list(sequence) for sequence in images], output_attentions=True)
    model.chunks_per_pass = 2
    parts = model(images, output_attentions=True)
    model.set_frames_per_pass(3)
    frames = model(images, output_attentions=True)
    close = {"rtol": 1e-9, "atol": 1e-12}
    for name in ("attentions", "global_attentions"):
        for weights, part, few, chunks in zip(
            whole[name], parts[name], frames[name], nested[name], strict=True
        ):
            torch.testing.assert_close(part, weights, **close)
            torch.testing.assert_close(few, weights, **close)
            stacked = torch.stack([torch.stack(sequence) for sequence in chunks])
            torch.testing.assert_close(stacked.reshape(weights.shape), weights, **close)


@pytest.mark.parametrize("mode", ["none", "blocks", "segments"])
def test_gradients_reach_the_attentions_themselves(mode):
    model = tiny_model().train()
    model.set_activation_checkpointing(mode)
    if mode != "none":  # or backward would compute again with another kernel
        with pytest.raises(ValueError, match=r"set_attn_implementation\(\"eager\"\)"):
            model(random_images(1, 2, 2), output_attentions=True)
        model.set_attn_implementation("eager")
    output = model(random_images(1, 2, 2), output_attentions=True)
    for weights in (*output.attentions, *output.global_attentions):
        weights.retain_grad()
    output.pose_encoding.sum().backward()
    assert all(weights.grad is not None for weights in (*output.attentions, *output.global_attentions))


def test_a_call_that_fails_leaves_no_recording_behind(model):
    with pytest.raises(ValueError, match="multiple of the patch size"):
        model(torch.rand(2, 3, 9, 12, dtype=torch.float64), output_attentions=True)
    assert all(module.recorded is None for module in model.modules() if isinstance(module, block.Attention))


@pytest.mark.parametrize("engine", ["ReplicatedEngine", "ZeroEngine", "Fsdp2Engine"])
def test_engines_want_predictions_whatever_a_loaded_configuration_says(engine, tmp_path):
    tiny_model(torch.float32, output_hidden_states=True, return_dict=False).save_pretrained(tmp_path)
    model = Scal3RModel.from_pretrained(tmp_path)
    assert isinstance(model(random_images(1, 1, 2, dtype=torch.float32)), tuple)
    process = Process(0, 1, torch.device("cpu"))
    itself = SimpleNamespace(
        process=process, is_reduced=False, bare_model=model, _called=model, _zero_engine=model
    )
    output = ENGINES[engine].forward(itself, random_images(1, 1, 2, dtype=torch.float32), None)
    assert isinstance(output, Scal3ROutput) and list(output) == list(FIELDS)


def test_studies_and_reconstructions_do_too(image_folder):  # noqa: F811
    """Both as a loaded configuration would have it: the study calls the model, a reconstruction its parts."""
    plain, other = (make_tiny_model(depth_head=True) for _ in range(2))
    other.config.output_hidden_states, other.config.return_dict = True, False
    images = torch.rand(2, 3, 3, 28, 42)
    for one, two in zip(
        *(predict_chunks(model, images, AS_TRAINED) for model in (plain, other)), strict=True
    ):
        assert torch.equal(one.extrinsics, two.extrinsics) and torch.equal(one.depth, two.depth)
    few = {"input__max_frames": 5, "input__resize__size": 42, "schedule": {"chunk_size": 4, "overlap": 2}}
    scenes = [reconstruct(image_folder, model, **few) for model in (plain, other)]
    assert torch.equal(scenes[0].world_from_cam, scenes[1].world_from_cam)
