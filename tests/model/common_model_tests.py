"""Run transformers' own tests of models on `Scal3RModel`, from an unpacked source distribution of transformers.

    pip download transformers==5.24.0 --no-deps --no-binary :all: && tar xzf transformers-5.24.0.tar.gz
    pip install parameterized
    python -m tests.model.common_model_tests transformers-5.24.0

Prints one line per test that neither passes nor is skipped by transformers itself, then the counts. Exit code 1 when a
test fails that docs/huggingface.md does not name, or one that it names passes. None of their code is here.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from scal3r_train.model.activation_checkpointing import Recomputed
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.model.tiny import tiny_config

PACKAGE = "transformers_tests"  # under their own name, `tests`, they would hide ours
# Their module asks for these two beside it, which the source distribution leaves out: exporters and text generation.
LEFT_OUT = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
COLUMNS = ("| test | why not |", "| --- | --- |")


class SmallScal3R:
    """What transformers calls a model tester: a small configuration, its inputs, and the numbers to expect."""

    is_training = True
    batch_size, num_chunks, num_frames, side = 2, 2, 3, 8
    num_hidden_layers = 2
    hidden_size = 16
    num_attention_heads = 2

    def __init__(self) -> None:
        self.seq_length = self.get_config().num_special_tokens + (self.side // 4) ** 2

    def get_config(self) -> Scal3RConfig:
        """Return two layers, each with a memory, behind the encoder of the released model."""
        return tiny_config(
            num_layers=2,
            tap_layers=[0, 0, 1, 1],
            memory_layers=[0, 1],
            patch_encoder="dinov2",
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Scal3RConfig, dict[str, Any]]:
        """Return a configuration and images [B, K, S, 3, H, W]."""
        shape = (self.batch_size, self.num_chunks, self.num_frames, 3, self.side, self.side)
        return self.get_config(), {"pixel_values": torch.rand(shape)}


class TaughtScal3R(Scal3RModel):
    """The model with a loss, which transformers' tests of training ask the output for; ours are in `losses/`."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Add a number that depends on every prediction."""
        output = super().forward(*inputs, **options)
        output.loss = sum(value.square().mean() for value in output.values())
        return output


def common_tests(source: Path) -> type[unittest.TestCase]:
    """Return transformers' tests, of the unpacked source distribution at `source`, for `Scal3RModel`."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(source / "tests")]
    sys.modules[PACKAGE] = package
    for name, mixin in LEFT_OUT.items():
        if (source / "tests" / f"{name.replace('.', '/')}.py").is_file():
            continue
        folder, _ = name.split(".")
        sys.modules.setdefault(f"{PACKAGE}.{folder}", types.ModuleType(f"{PACKAGE}.{folder}"))
        module = types.ModuleType(f"{PACKAGE}.{name}")
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules[f"{PACKAGE}.{name}"] = module
    common = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    # Our blocks follow the protocol of this class without deriving from it (model/activation_checkpointing.py).
    common.GradientCheckpointingLayer = Recomputed

    class Scal3RModelTest(common.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (Scal3RModel,)
        test_resize_embeddings = False

        def setUp(self) -> None:
            self.model_tester = SmallScal3R()
            if self._testMethodName.startswith("test_training"):
                self.all_model_classes = (TaughtScal3R,)

    return Scal3RModelTest


def named_in(document: str) -> set[str]:
    """Return the tests in the table of a document that names those left out."""
    _, _, table = document.partition("\n".join(COLUMNS) + "\n")
    rows = table.split("\n\n")[0].splitlines()
    return {row.split("`")[1] for row in rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the unpacked source distribution of transformers")
    parser.add_argument("--test", help="only those whose name contains this")
    options = parser.parse_args(arguments)
    if not (options.source / "tests" / "test_modeling_common.py").is_file():
        parser.error(
            f"{options.source}: no tests/test_modeling_common.py; unpack transformers' .tar.gz of PyPI"
        )
    case = common_tests(options.source)
    names = unittest.defaultTestLoader.getTestCaseNames(case)
    chosen = [name for name in names if (options.test or "") in name]
    document = (Path(__file__).parents[2] / "docs" / "huggingface.md").read_text()
    expected = named_in(document)
    outcome = unittest.TestResult()
    for name in chosen:
        case(name).run(outcome)
    failures: dict[str, str] = {}
    for test, trace in (*outcome.failures, *outcome.errors):
        whole = getattr(test, "test_case", test)  # a subtest knows the test it belongs to
        failures[whole._testMethodName] = trace.strip().splitlines()[-1]
    for name, reason in sorted(failures.items()):
        print(f"{'left out' if name in expected else 'FAILED'}  {name}: {reason}")
    passing = sorted((expected & set(chosen)) - failures.keys())
    for name in passing:
        print(f"PASSES   {name}, which docs/huggingface.md leaves out")
    skipped = {getattr(test, "test_case", test)._testMethodName for test, _ in outcome.skipped}
    num_passed = len(chosen) - len(failures) - len(skipped - failures.keys())
    print(
        f"transformers {transformers.__version__}: {num_passed} passed, {len(skipped - failures.keys())} skipped, "
        f"{len(failures)} failed, of which {len(failures.keys() & expected)} are left out with a reason"
    )
    return int(bool(failures.keys() - expected or passing))


if __name__ == "__main__":
    sys.exit(main())
