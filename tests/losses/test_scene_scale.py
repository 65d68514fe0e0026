import torch

from scal3r_train.losses.targets import distance_sums, mean_distance


def test_scale_is_the_mean_distance_of_valid_points():
    points = torch.zeros(1, 2, 1, 2, 2, 3)
    points[0, 0, 0, 0, 0] = torch.tensor([3.0, 4.0, 0.0])
    points[0, 0, 0, 1, 1] = torch.tensor([0.0, 0.0, 1.0])
    points[0, 0, 0, 0, 1] = torch.nan
    mask = torch.zeros(1, 2, 1, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0, 0] = mask[0, 0, 0, 1, 1] = True
    distance_sum, count = distance_sums(points, mask)
    assert distance_sum.tolist() == [[6.0, 0.0]]
    assert count.tolist() == [[2.0, 0.0]]
    assert mean_distance(distance_sum, count).tolist() == [[3.0, 1.0]]


def test_sums_of_parts_are_the_sums_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 6, 3, 5, 7, 3, generator=generator)
    mask = torch.rand(2, 6, 3, 5, 7, generator=generator) > 0.3
    whole = torch.stack(distance_sums(points, mask)).sum(-1)
    parts = sum(
        torch.stack(distance_sums(points[:, a:b], mask[:, a:b])).sum(-1) for a, b in ((0, 1), (1, 4), (4, 6))
    )
    torch.testing.assert_close(parts, whole, rtol=1e-15, atol=0)
