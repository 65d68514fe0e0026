"""Goldens of the Sim(3) pose graph, and of everything from decoded outputs to final poses, as the reference does it.

The settings of seams are those of recipes/reconstruct/official.yaml, which claims to follow the reference. The
reference leaves all nodes free and weights all edges alike; relative poses at the optimum do not depend on the gauge,
so node 0 is fixed here.
"""

import torch
from torch import Tensor

from scal3r_train.config import load_config
from scal3r_train.geometry.camera import invert_extrinsics, world_points_from_depth
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import align_chunks, chain
from scal3r_train.inference.chunking import provider_chunk_of_frame
from scal3r_train.inference.loop_closure.pose_graph import PoseEdges, optimise_pose_graph, residuals
from scal3r_train.inference.loop_closure.release_rules import close_unjudged, unjudged_edge
from scal3r_train.inference.loop_closure.settings import PoseGraphSettings
from scal3r_train.inference.settings import ReconstructionRecipe
from tests.golden.reader import Golden

SETTINGS = PoseGraphSettings(robust=False)
OFFICIAL = load_config(ReconstructionRecipe, "reconstruct/official", [])
ALIGNMENT = OFFICIAL.alignment
Loop = tuple[int, int, Sim3]  # a, c, c_from_a


def check_sim3_pose_graph(golden: Golden) -> dict[str, Tensor]:
    """Kind sim3_pose_graph: the optimum's relative transforms, absolute poses and mean squared residual."""
    sequential = _similarities(golden, "in.seq")
    pairs = golden["in.loop.ij"].tolist()
    loops = [(a, c, sim3) for (a, c), sim3 in zip(pairs, _similarities(golden, "in.loop"), strict=True)]
    nodes, edges = _chained(sequential), _edges(sequential, loops)
    optimum = optimise_pose_graph(nodes, edges, SETTINGS)
    assert optimum.converged
    placed = _from_first(optimum.nodes.unstack())
    relative = [a.inverse() @ b for a, b in zip(placed[:-1], placed[1:], strict=True)]
    return {
        "mid.initial_abs": torch.stack([node.matrix() for node in nodes.unstack()]),
        "mid.residual0": residuals(nodes, edges),
        "out.abs": torch.stack([node.matrix() for node in placed]),
        "out.final_cost": residuals(optimum.nodes, edges).square().mean(),
        "out.seq.s": torch.stack([sim3.scale for sim3 in relative]),
        "out.seq.R": torch.stack([sim3.rotation for sim3 in relative]),
        "out.seq.t": torch.stack([sim3.translation for sim3 in relative]),
    }


def check_post_process(golden: Golden) -> dict[str, Tensor]:
    """Kind post_process: three chunks aligned, with and without a loop chunk between the first and the last."""
    config = golden.config
    ranges = [range(*bounds) for bounds in config["chunk_ranges"]]
    blocks = [_Block(golden, number) for number in range(len(config["blocks"]))]
    chunks = [block.geometry for block in blocks]
    seams = [align_chunks(chunks[k], chunks[k + 1], ALIGNMENT) for k in range(len(ranges) - 1)]
    edges, loops = [], []
    for (a, _, c, _), loop in zip(config["loops"], chunks[len(ranges) :], strict=True):
        edge = unjudged_edge({a: chunks[a], c: chunks[c]}, loop, ALIGNMENT)
        edges.append(edge)
        loops.append(edge.a_from_c.inverse() if a == edge.a else edge.a_from_c)
    sequential = [seam.earlier_from_later for seam in seams]
    closed, report = close_unjudged(
        seams, edges, [first for first, *_ in config["loops"]], OFFICIAL.pose_graph.graph
    )
    assert report.converged
    assert report.num_accepted == len(loops) > 0
    result: dict[str, Tensor] = {}
    providers = provider_chunk_of_frame(config["n_frames"], ranges, config["overlap_size"])
    rows = [blocks[k].frames.index(frame) for frame, k in enumerate(providers)]
    placed_by_name = {"noloop": chain(seams), "loop": _from_first(closed)}
    for name, world_from_chunk in placed_by_name.items():
        result[f"out.{name}.c2w"] = torch.stack(
            [
                world_from_chunk[k].matrix() @ blocks[k].chunk_from_cam(row)
                for k, row in zip(providers, rows, strict=True)
            ]
        )
        intrinsics = [blocks[k].intrinsics[row] for k, row in zip(providers, rows, strict=True)]
        result[f"out.{name}.ixt"] = torch.stack(intrinsics)
    result["out.noloop.depth"] = torch.stack(
        [blocks[k].depth[row].flatten() for k, row in zip(providers, rows, strict=True)]
    )
    for name, sim3s in {"seq": sequential, "loop": loops}.items():
        result[f"mid.{name}.s"] = torch.stack([sim3.scale for sim3 in sim3s])
        result[f"mid.{name}.R"] = torch.stack([sim3.rotation for sim3 in sim3s])
        result[f"mid.{name}.t"] = torch.stack([sim3.translation for sim3 in sim3s])
    return result


class _Block:
    """One chunk's decoded outputs, in the golden's order of frames."""

    def __init__(self, golden: Golden, number: int) -> None:
        image_hw = tuple(golden.config["hw"])
        self.frames: list[int] = golden.config["blocks"][number]["src"]
        self.extrinsics, self.intrinsics = decode_pose(golden[f"in.block{number}.cam"], image_hw)
        self.depth = golden[f"in.block{number}.depth"][..., 0].unflatten(1, image_hw)
        confidence = golden[f"in.block{number}.depth_conf"][..., 0].unflatten(1, image_hw)
        points = world_points_from_depth(self.depth, self.intrinsics, self.extrinsics)
        valid = self.depth.isfinite() & (self.depth > 0)
        self.geometry = ChunkGeometry(self.frames, points, confidence, valid, self.extrinsics)

    def chunk_from_cam(self, row: int) -> Tensor:
        """4 x 4 float64."""
        return Sim3.from_rigid(invert_extrinsics(self.extrinsics[row])).matrix()


def _similarities(golden: Golden, prefix: str) -> list[Sim3]:
    parts = [golden[f"{prefix}.{letter}"].double() for letter in "sRt"]
    return [Sim3(*part) for part in zip(*parts, strict=True)]


def _chained(sequential: list[Sim3]) -> Sim3Batch:
    nodes = [Sim3.identity()]
    for sim3 in sequential:
        nodes.append(nodes[-1] @ sim3)
    return Sim3Batch.stack(nodes)


def _edges(sequential: list[Sim3], loops: list[Loop]) -> PoseEdges:
    """The reference's residuals Log(Z_k T_{k+1}^-1 T_k) and Log(S T_a^-1 T_c), all of weight 1."""
    i = [k + 1 for k in range(len(sequential))] + [a for a, _, _ in loops]
    j = list(range(len(sequential))) + [c for _, c, _ in loops]
    measured = [sim3.inverse() for sim3 in sequential] + [sim3.inverse() for _, _, sim3 in loops]
    information = torch.eye(7, dtype=torch.float64).expand(len(i), 7, 7)
    robust = torch.zeros(len(i), dtype=torch.bool)
    return PoseEdges(torch.tensor(i), torch.tensor(j), Sim3Batch.stack(measured), information, robust)


def _from_first(nodes: list[Sim3]) -> list[Sim3]:
    first = nodes[0].inverse()
    return [first @ node for node in nodes]
