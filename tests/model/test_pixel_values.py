"""The images that a call takes: leading axes left out, and what is refused with a remedy."""

import re

import pytest
import torch
from torch import Tensor

from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.pixel_values import checked_pixel_values
from tests.model.tiny import FIELDS, random_images, tiny_model

SIX = r"\[S, 3, H, W\] or \[K, S, 3, H, W\] or \[B, K, S, 3, H, W\]"


@pytest.fixture(scope="module")
def model() -> Scal3RModel:
    return tiny_model()


@pytest.mark.parametrize("num_axes", [4, 5])
def test_leading_axes_may_be_left_out(model, num_axes):
    images = random_images(1, 1 if num_axes == 4 else 2, 3)
    expected, found = model(images), model(pixel_values=images.flatten(0, 5 - num_axes))
    assert all(torch.equal(found[name], expected[name]) for name in FIELDS)


def test_one_sequence_without_its_axis_still_takes_a_mask(model):
    images, mask = random_images(1, 2, 2), torch.tensor([[True, False]])
    expected, found = model(images, mask), model(images[0], chunk_mask=mask)
    assert all(torch.equal(found[name], expected[name]) for name in FIELDS)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 5), rf"^pixel_values must be non-empty {SIX}, got \[3, 4, 5\]$"),
        (torch.zeros(1, 2, 3, 1, 4, 5), "must be non-empty"),
        (torch.zeros(1, 2, 0, 3, 4, 5), "must be non-empty"),
        (torch.zeros(1, 1, 1, 2, 3, 4, 5), "must be non-empty"),
        ([[torch.zeros(3, 4, 4)]], r"sequence 0 chunk 0 must be non-empty \[S, 3, H, W\], got \[3, 4, 4\]$"),
        ([[], [torch.zeros(0, 3, 4, 4)]], "sequence 1 chunk 0"),
    ],
)
def test_wrong_shapes_are_named(model, images, message):
    with pytest.raises(ValueError, match=message):
        model(images)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.full((2, 3, 4, 4), 200, dtype=torch.uint8), "are torch.uint8"),
        (torch.full((2, 3, 4, 4), 200.0), "lie in [200, 200]"),
        (torch.linspace(-1, 1, 96).view(2, 3, 4, 4), "lie in [-1, 1]"),
        (torch.linspace(-2.1, 2.6, 96).view(2, 3, 4, 4).bfloat16(), "lie in [-2.09, 2.59]"),
    ],
)
def test_images_in_other_units_are_refused_in_one_line_with_the_remedy(model, images, found):
    remedy = re.escape("give RGB in [0, 1] as floating point (uint8 images: images.float() / 255)")
    with pytest.raises(ValueError, match=rf"^pixel_values {re.escape(found)}: {remedy}[^\n]*$"):
        model(images)
    with pytest.raises(
        ValueError, match=rf"^pixel_values of sequence 0 chunk 1 {re.escape(found)}: {remedy}"
    ):
        model([[torch.zeros(1, 3, 4, 4), images]])


def test_the_overshoot_of_resampling_passes():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    images = torch.nn.functional.interpolate(images, scale_factor=2, mode="bicubic")
    assert images.min() < 0 < 1 < images.max()
    assert torch.equal(checked_pixel_values(images), images[None, None])


def test_values_on_other_devices_are_not_looked_at():
    """The host would have to wait for them; tests/fake_cuda counts waits."""
    shape = (2, 3, 4, 4)
    assert checked_pixel_values(torch.full(shape, 200.0, device="meta")).shape == (1, 1, *shape)
    with pytest.raises(ValueError, match=r"are torch\.uint8"):
        checked_pixel_values(torch.zeros(shape, dtype=torch.uint8, device="meta"))


def test_a_check_of_the_range_leaves_the_graph_alone():
    images = random_images(2).requires_grad_()
    checked = checked_pixel_values(images)
    assert isinstance(checked, Tensor)
    assert torch.equal(torch.autograd.grad(checked.sum(), images)[0], torch.ones_like(images))


def test_the_example_of_the_document_runs(project_root, monkeypatch):
    text = (project_root / "docs" / "huggingface.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert "output.depth.shape  # [1, 2, 8, 48, 72]" in code
    monkeypatch.chdir(project_root)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102
    assert names["output"].depth.shape == (1, 2, 8, 48, 72)
