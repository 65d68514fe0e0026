"""What losses read of the model's output."""

from typing import Protocol

from torch import Tensor


class Predictions(Protocol):
    """The fields of Scal3ROutput that losses read; None for heads that are switched off."""

    @property
    def pose_encoding_stages(self) -> Tensor | None:
        """[T, B, K, S, 9]: the camera head's refinement stages, the last one best."""

    @property
    def depth(self) -> Tensor | None:
        """[B, K, S, H, W]: z-depth in scene units."""

    @property
    def depth_conf(self) -> Tensor | None:
        """[B, K, S, H, W]: confidence of the depth, > 0."""

    @property
    def world_points(self) -> Tensor | None:
        """[B, K, S, H, W, 3]: points in the chunk's coordinates, scene units."""

    @property
    def world_points_conf(self) -> Tensor | None:
        """[B, K, S, H, W]: confidence of the points, > 0."""

    @property
    def motion_poses(self) -> Tensor | None:
        """[B, K, S, 9]: the encoder's pose encodings."""

    @property
    def motion_steps(self) -> Tensor | None:
        """[B, K, S, L, 3, 4]: prev_from_cur, as each level of the encoder left it."""

    @property
    def inverse_depth(self) -> Tensor | None:
        """[B, K, S, h, w]: the encoder's, in scene units."""

    @property
    def motion_fov(self) -> Tensor | None:
        """[B, K, S]: the horizontal field of view that the encoder sees, in radians."""

    @property
    def focal_evidence(self) -> Tensor | None:
        """[B, K, 2]: information and pull on the log of the focal length that the encoder was given."""
