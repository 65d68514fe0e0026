"""The runner of transformers' tests, on a stand-in for their source distribution."""

import sys

import pytest

from tests.model.common_model_tests import PACKAGE, main, named_in

SOURCE = """
from .exporters.test_export import ExportTesterMixin
from transformers import PreTrainedModel


class GradientCheckpointingLayer:
    pass


class ModelTesterMixin(ExportTesterMixin):
    def test_forward(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        (model_class,) = self.all_model_classes
        assert issubclass(model_class, PreTrainedModel)
        model = model_class(config)
        assert any(isinstance(module, GradientCheckpointingLayer) for module in model.modules())
        assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3

    def test_training_has_a_loss(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        self.all_model_classes[0](config)(**inputs).loss.backward()

    def test_skipped(self):
        self.skipTest("not for images")

    def test_model_get_set_embeddings(self):
        {left_out}

    def test_new(self):
        for number in range(2):
            with self.subTest(number):
                assert {new}
"""


@pytest.fixture(autouse=True)
def _forget_their_modules():
    yield
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("left_out", "new", "code", "line"),
    [
        (
            "raise TypeError('no table')",
            "True",
            0,
            "left out  test_model_get_set_embeddings: TypeError: no table",
        ),
        ("raise TypeError", "number == 0", 1, "FAILED  test_new: AssertionError"),
        ("pass", "True", 1, "PASSES   test_model_get_set_embeddings, which docs/huggingface.md leaves out"),
    ],
)
def test_what_fails_is_named_in_the_document_and_nothing_else(tmp_path, capsys, left_out, new, code, line):
    (tmp_path / "tests").mkdir()
    text = SOURCE.replace("{left_out}", left_out).replace("{new}", new)
    (tmp_path / "tests" / "test_modeling_common.py").write_text(text)
    assert main([str(tmp_path)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert any(found.startswith(line) for found in lines), lines
    num_failed = (left_out != "pass") + (new != "True")
    assert f"{4 - num_failed} passed, 1 skipped, {num_failed} failed" in lines[-1]


def test_a_folder_without_their_tests_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2
    assert "no tests/test_modeling_common.py" in capsys.readouterr().err


def test_the_document_names_tests(project_root):
    named = named_in((project_root / "docs" / "huggingface.md").read_text())
    assert named == {
        "test_model_get_set_embeddings",
        "test_training_gradient_checkpointing_use_reentrant_true",
    }
