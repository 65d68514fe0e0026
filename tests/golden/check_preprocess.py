"""Recomputes goldens of kind `preprocess`: image files -> target size and resized pixels.

docs/numerics.md#preprocessing.
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from scal3r_train.data.camera.resize import ResizeAndCrop, ResizeRule
from scal3r_train.data.io.image_codec import read_image
from tests.golden.reader import Golden


def check_preprocess(golden: Golden) -> dict[str, Tensor]:
    """`out.case*.hw` from the first image's size; `out.case*.img*` through file, decoder, cover and crop."""
    settings, recomputed = golden.config["dataset"], {}
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(golden.config["cases"]):
            size = case.get("proc_max_size", settings["proc_max_size"])
            rule = ResizeRule(kind="width", size=size, multiple=settings["proc_align_size"])
            target = rule.target_hw(tuple(case["sizes_hw"][0]))
            recomputed[f"out.case{number}.hw"] = torch.tensor(target)
            for i in range(len(case["sizes_hw"])):
                path = Path(folder) / f"{number}_{i}.png"
                path.write_bytes(golden[f"in.case{number}.img{i}_png"].numpy().tobytes())
                image = read_image(path)
                assert (torch.tensor(image) == golden[f"in.case{number}.img{i}_u8"]).all()
                cover = ResizeAndCrop.plan(image.shape[:2], target, rule.cover_multiple)
                recomputed[f"out.case{number}.img{i}"] = torch.from_numpy(cover.image(image).copy())
    return recomputed
