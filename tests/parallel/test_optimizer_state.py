"""AdamW's state, allocated before its first step: fused or not, on whatever device it steps."""

import pytest
import torch

from scal3r_train.parallel.engine import allocate_moments, stepped_parameters


def stepped(*, is_fused: bool, num_updates: int = 3) -> torch.Tensor:
    """Return a parameter after some updates with moments that were allocated beforehand."""
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = torch.optim.AdamW([{"params": [parameter], "name": "x"}], lr=0.1)
    allocate_moments(optimizer, stepped_parameters(optimizer))
    if is_fused:  # as on a GPU; the CPU has a fused kernel too
        optimizer.param_groups[0]["fused"] = True
    for _ in range(num_updates):
        parameter.grad = parameter.detach().cos()
        optimizer.step()
    assert float(optimizer.state[parameter]["step"]) == num_updates
    return parameter.detach()


def test_moments_beforehand_are_those_of_the_first_step() -> None:
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    for _ in range(3):
        parameter.grad = parameter.detach().cos()
        optimizer.step()
    assert torch.equal(stepped(is_fused=False), parameter.detach())


def test_the_fused_kernel_takes_them() -> None:
    torch.testing.assert_close(stepped(is_fused=True), stepped(is_fused=False))


@pytest.mark.parametrize(("devices", "expected"), [(("meta",), None), (("cpu",), None)])
def test_only_gpus_fuse(devices: tuple[str, ...], expected: bool | None) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2, device=device)) for device in devices]
    optimizer = torch.optim.AdamW([{"params": parameters, "name": "x"}])
    allocate_moments(optimizer, parameters)
    assert optimizer.param_groups[0]["fused"] is expected
