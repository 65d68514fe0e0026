"""The private attributes of DeepSpeed that zero.py reads: a version that moves one is named here, not by a run."""

import inspect

import pytest

deepspeed = pytest.importorskip("deepspeed")

from deepspeed.runtime.engine import DeepSpeedEngine  # noqa: E402
from deepspeed.runtime.zero import stage3, stage_1_and_2  # noqa: E402
from deepspeed.runtime.zero.partition_parameters import Init  # noqa: E402
from deepspeed.utils.tensor_fragment import tensor_fragment  # noqa: E402

STAGE_1_2 = stage_1_and_2.DeepSpeedZeroOptimizer
STAGE_3 = stage3.DeepSpeedZeroOptimizer_Stage3


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (DeepSpeedEngine, "set_gradient_accumulation_boundary"),
        (DeepSpeedEngine, "destroy"),
        (STAGE_1_2, "_lazy_init_hp_params_optimizer_state"),
        (STAGE_1_2, "update_lp_params"),
        (STAGE_3, "_get_fp32_grad_state_partition"),
        (STAGE_3, "_get_fp32_opt_state_partition"),
        (STAGE_3, "_reassign_or_swap_out_partitioned_parameters"),
        (tensor_fragment, "get_lp_grad_fragment"),
        (tensor_fragment, "get_optim_state_fragment"),
        (tensor_fragment, "get_hp_fragment"),
    ],
)
def test_methods(owner: type, name: str) -> None:
    assert callable(getattr(owner, name, None)), (
        f"DeepSpeed {deepspeed.__version__} has no {owner.__name__}.{name}"
    )


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (STAGE_1_2, ["single_partition_of_fp32_groups"]),
        (
            STAGE_3,
            ["fp32_partitioned_groups_flat", "persistent_parameters", "fp16_groups", "norm_for_param_grads"],
        ),
        (Init, ["convert_to_zero_parameters", "partition_numel", "ds_tensor", "ds_numel", "ds_shape"]),
    ],
)
def test_attributes_that_are_set_on_objects(owner: type, names: list[str]) -> None:
    source = inspect.getsource(owner)
    missing = [name for name in names if f".{name} =" not in source]
    assert not missing, f"DeepSpeed {deepspeed.__version__}: {owner.__name__} no longer sets {missing}"


def test_fragments_of_parameters() -> None:
    source = inspect.getsource(inspect.getmodule(tensor_fragment))
    for name in ("_hp_mapping", "_index_in_param_group", "lp_fragment_address"):
        assert name in source, f"DeepSpeed {deepspeed.__version__} has no {name}"
