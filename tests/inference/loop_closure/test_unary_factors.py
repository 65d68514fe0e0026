"""What is known of single nodes of a pose graph: derivatives, another optimiser, gauge, outliers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.inference.loop_closure.pose_graph import (
    PoseEdges,
    PoseGraphResult,
    optimise_pose_graph,
    residuals,
)
from scal3r_train.inference.loop_closure.settings import PoseGraphSettings
from scal3r_train.inference.loop_closure.unary_factors import PositionFactors, ScaleFactors
from tests.inference.loop_closure.test_pose_graph import ring

NUM = 6
QUADRATIC = PoseGraphSettings(robust=False)


def scale_factors(about_common: bool, seed: int = 1) -> ScaleFactors:
    generator = torch.Generator().manual_seed(seed)
    value = 0.3 * torch.randn(NUM, generator=generator, dtype=torch.float64)
    information = 1 / (0.02 + 0.1 * torch.rand(NUM, generator=generator, dtype=torch.float64)) ** 2
    return ScaleFactors(torch.arange(NUM), value, information, about_common)


def position_factors(truth: Sim3Batch, noise: float = 0.05) -> PositionFactors:
    """Two points of every node, whose positions in a world that is turned, larger and elsewhere are measured."""
    generator = torch.Generator().manual_seed(2)
    node = torch.arange(len(truth)).repeat_interleave(2)
    point = torch.randn(len(node), 3, generator=generator, dtype=torch.float64)
    far = torch.tensor([[300.0, -200, 50, 0.5, 1.0, -0.7, 1.2]], dtype=torch.float64)
    world = sim3_tangent.exp(far).take(torch.zeros(len(truth), dtype=torch.long)) @ truth
    error = noise * torch.randn(len(node), 3, generator=generator, dtype=torch.float64)
    at = world.take(node)
    position = at.scale[:, None] * (at.rotation @ point[..., None])[..., 0] + at.translation + error
    root = torch.randn(len(node), 3, 3, generator=generator, dtype=torch.float64)
    information = (torch.eye(3, dtype=torch.float64) + 0.1 * root @ root.transpose(1, 2)) / 0.05**2
    return PositionFactors(node, point, position, information, torch.ones(len(node), dtype=torch.bool))


def cost(
    nodes: Sim3Batch,
    edges: PoseEdges,
    scales: ScaleFactors | None,
    positions: PositionFactors | None,
    common: float = 0.0,
) -> np.ndarray:
    """Whitened residuals of everything, written out apart from the solver."""
    size = edges.information.shape[-1]
    root = torch.linalg.cholesky(edges.information).transpose(1, 2)
    parts = [(root @ residuals(nodes, edges)[:, :size, None]).flatten()]
    if scales is not None:
        gap = nodes.scale[scales.node].log() - scales.log_scale - (common if scales.about_common else 0.0)
        parts.append(scales.information.sqrt() * gap)
    if positions is not None:
        found = torch.stack(
            [
                nodes.unstack()[k].apply(point)
                for k, point in zip(positions.node.tolist(), positions.point, strict=True)
            ]
        )
        root = torch.linalg.cholesky(positions.information).transpose(1, 2)
        parts.append((root @ (found - positions.position)[..., None]).flatten())
    return torch.cat(parts).numpy()


def minimum(
    start: Sim3Batch,
    edges: PoseEdges,
    scales: ScaleFactors | None,
    positions: PositionFactors | None,
    free_first: list[int],
) -> float:
    """The least cost by scipy, where of node 0 only the numbers `free_first` move."""
    size = edges.information.shape[-1]

    def whitened(x: np.ndarray) -> np.ndarray:
        tangent = torch.zeros(len(start), 7, dtype=torch.float64)
        num_first = len(free_first)
        tangent[0, free_first] = torch.from_numpy(x[:num_first])
        tangent[1:, :size] = torch.from_numpy(x[num_first:-1]).reshape(-1, size)
        return cost(start @ sim3_tangent.exp(tangent), edges, scales, positions, x[-1])

    num = len(free_first) + (len(start) - 1) * size + 1
    found = least_squares(whitened, np.zeros(num), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    return 2 * float(found.cost)


def solved(
    nodes: Sim3Batch, edges: PoseEdges, scales: ScaleFactors | None, positions: PositionFactors | None
) -> PoseGraphResult:
    result = optimise_pose_graph(nodes, edges, QUADRATIC, scales, positions)
    assert result.converged
    return result


def test_derivatives_are_those_of_the_residuals() -> None:
    truth, nodes, _ = ring(NUM, 0.05)
    positions = position_factors(truth)
    for factors, found in (
        (positions, positions.jacobians(nodes, 7)[..., :7]),
        (scale_factors(about_common=False), scale_factors(about_common=False).jacobians(7)[..., :7]),
    ):

        def moved(tangent: Tensor, factors: PositionFactors | ScaleFactors = factors) -> Tensor:
            return factors.residuals(nodes @ sim3_tangent.exp(tangent.expand(NUM, 7)))

        for number in range(7):
            step = torch.zeros(7, dtype=torch.float64)
            step[number] = 1e-6
            numeric = (moved(step) - moved(-step)) / 2e-6
            torch.testing.assert_close(found[..., number], numeric, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("about_common", [True, False])
def test_scales_agree_with_another_optimiser(about_common: bool) -> None:
    _, nodes, edges = ring(NUM, 0.05)
    scales = scale_factors(about_common)
    result = solved(nodes, edges, scales, None)
    assert result.cost_after == pytest.approx(
        minimum(nodes, edges, scales, None, [] if about_common else [6]), rel=1e-6
    )
    torch.testing.assert_close(result.nodes.translation[0], nodes.translation[0], rtol=0, atol=0)
    if about_common:
        assert result.nodes.scale[0] == nodes.scale[0]
        assert result.common_log_scale == pytest.approx(scales.best_common(result.nodes))
    else:
        assert result.common_log_scale is None
        assert result.nodes.scale[0] != nodes.scale[0]


@pytest.mark.parametrize(("size", "with_scales"), [(7, False), (7, True), (6, False)])
def test_positions_agree_with_another_optimiser(size: int, with_scales: bool) -> None:
    truth, nodes, edges = ring(NUM, 0.05, size)
    positions = position_factors(truth)
    scales = scale_factors(about_common=True) if with_scales else None
    result = solved(nodes, edges, scales, positions)
    start = positions.align(nodes)
    assert result.cost_after == pytest.approx(
        minimum(start, edges, scales, positions, list(range(size))), rel=1e-6
    )
    assert result.cost_after < 0.5 * result.cost_before


def test_the_world_is_that_of_the_positions_wherever_the_nodes_were() -> None:
    truth, nodes, edges = ring(NUM, 0.05)
    positions, scales = position_factors(truth), scale_factors(about_common=True)
    elsewhere = sim3_tangent.exp(torch.tensor([[5.0, 6, -7, 2.0, 0, 1.0, -1.5]], dtype=torch.float64))
    moved = elsewhere.take(torch.zeros(NUM, dtype=torch.long)) @ nodes
    one, other = (solved(start, edges, scales, positions) for start in (nodes, moved))
    torch.testing.assert_close(one.nodes.translation, other.nodes.translation, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.nodes.scale, other.nodes.scale, rtol=1e-7, atol=0)
    assert one.common_log_scale == pytest.approx(other.common_log_scale, abs=1e-7)


def test_exact_positions_are_met() -> None:
    truth, nodes, edges = ring(NUM, 0.0)
    positions = position_factors(truth, noise=0.0)
    result = solved(nodes, edges, None, positions)
    assert result.cost_after < 1e-9
    assert float(result.nodes.scale[0] / truth.scale[0]) == pytest.approx(np.exp(1.2))


def test_a_wrong_position_does_not_count() -> None:
    truth, nodes, edges = ring(NUM, 0.01)
    positions = position_factors(truth)
    wrong = positions.position.clone()
    wrong[5] += torch.tensor([40.0, -30.0, 20.0], dtype=torch.float64)
    keep = torch.arange(2 * NUM) != 5
    names = ("node", "point", "position", "information", "robust")
    rest = PositionFactors(**{name: getattr(positions, name)[keep] for name in names})
    settings = PoseGraphSettings()
    expected = optimise_pose_graph(nodes, edges, settings, positions=rest)
    found = optimise_pose_graph(nodes, edges, settings, positions=replace(positions, position=wrong))
    assert found.position_weights[5] == 0
    assert found.position_weights[keep].min() > 0.99
    torch.testing.assert_close(found.nodes.translation, expected.nodes.translation, rtol=0, atol=1e-4)


def test_positions_on_a_line_leave_a_turn_open_and_nothing_else() -> None:
    truth, nodes, edges = ring(NUM, 0.0)
    straight = positions_on_a_line(truth)
    result = solved(nodes, edges, None, straight)
    torch.testing.assert_close(
        straight.residuals(result.nodes), torch.zeros(NUM, 3, dtype=torch.float64), rtol=0, atol=1e-5
    )
    assert result.nodes.rotation.isfinite().all()


def positions_on_a_line(truth: Sim3Batch) -> PositionFactors:
    """The point of every node that lies at its number on the world's x axis."""
    at = torch.zeros(NUM, 3, dtype=torch.float64)
    at[:, 0] = torch.arange(NUM)
    inverse = truth.inverse()
    point = inverse.scale[:, None] * (inverse.rotation @ at[..., None])[..., 0] + inverse.translation
    information = torch.eye(3, dtype=torch.float64).expand(NUM, 3, 3) * 100
    return PositionFactors(torch.arange(NUM), point, at, information, torch.zeros(NUM, dtype=torch.bool))
