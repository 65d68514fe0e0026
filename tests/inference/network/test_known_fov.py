"""The video's known field of view reaches an encoder that measures motion, and the camera head starts from it."""

import pytest
import torch

from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.network.state_store import DeviceStore
from tests.model.tiny import tiny_model

FOV = 1.3


@pytest.mark.parametrize("fov", [None, FOV])
def test_the_schedule_gives_what_the_model_gives(fov):
    model = tiny_model(patch_encoder="direct").float().eval()
    images = torch.randint(
        0, 256, (4, 3, 32, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    found = {}
    runner = ChunkRunner(model, "depth", "float32", fov)
    SegmentSchedule(runner, lambda _: images, DeviceStore(), 16).run([0], found.__setitem__)
    known = None if fov is None else torch.full((1, 1), fov)
    with torch.no_grad():
        output = model(images[None, None] / 255, fov=known)
    extrinsics, intrinsics = decode_pose(output.pose_encoding[0, 0].double(), (32, 48))
    torch.testing.assert_close(found[0].extrinsics, extrinsics, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0].intrinsics, intrinsics, rtol=1e-5, atol=1e-4)
    if fov is not None:
        torch.testing.assert_close(output.motion_poses[0, 0, :, 8], torch.full((4,), fov))
        assert abs(runner.embed(images).tensors["poses"][0, 8].item() - fov) < 1e-6
