"""Places seen twice: found, tested by geometry, and closed (docs/loop_closure.md). Where to look:

loops.py              the whole, in order: candidates, joint predictions, verdicts, pose graph
loop_plan.py          which loop chunks a video gets
frame_descriptors.py  one vector a frame, by which frames are compared
retrieval.py          candidates: pairs of frames that seem to show one place
windows.py            which frames around a candidate are predicted together
common_view.py        whether the two windows see the same surfaces
edges.py              the relative pose that a joint prediction gives, and whether it is believed
reach.py              what neighbours of this run reach: how well the ends of a loop must fit
agreement.py          loops that vouch for each other where the chain has drifted too far to vouch for them
pose_graph.py         the poses of all chunks that agree best with seams and loops
release_rules.py      the release's way: every loop is an edge, with the weight of a seam
unary_factors.py      what is known of single chunks: their scales, and where their cameras were
normal_equations.py   the sparse system that the pose graph solves
settings.py           recipe sections `loop_closure` and `pose_graph`
"""
