"""The paper's numbers are those of the project's notes on the paper, read from there."""

import re
from pathlib import Path

import pytest

from scal3r_eval.report import cited

COLUMNS = {"VKITTI2": "vkitti2", "KITTI": "kitti", "Oxford Spires": "oxford_spires", "ETH3D": "eth3d"}


def tables(path: Path) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
    """Title -> method -> column -> numbers of the tables of the project's notes."""
    found: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    title, head = "", []
    for line in path.read_text().splitlines():
        if line.startswith("## "):
            title, head = line, []
        elif line.startswith("| ") and "---" not in line:
            cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            if not head:
                head = cells
                continue
            numbers = [tuple(map(float, re.findall(r"[\d.]+", cell))) for cell in cells[1:]]
            name = re.sub(r" \(.*\)", "", cells[0])
            found.setdefault(title, {})[name] = dict(zip(head[1:], numbers, strict=True))
    return found


@pytest.fixture(scope="module")
def paper(shared_dir: Path) -> Path:
    path = shared_dir / "PAPER.md"
    if not path.is_file():
        pytest.skip("the notes on the paper are not there")
    return path


def test_tables_are_the_papers(paper: Path) -> None:
    found = tables(paper)
    poses = next(table for title, table in found.items() if title.startswith("## Table 1"))
    points = next(table for title, table in found.items() if title.startswith("## Table 2"))
    for table, ours in ((poses, cited.POSES), (points, cited.POINTS)):
        for method, columns in table.items():
            for column, numbers in columns.items():
                if column in COLUMNS and numbers:
                    assert ours[COLUMNS[column]][method] == numbers, (method, column)
        assert all(set(rows) == set(table) for rows in ours.values())
    resources = {
        name: next(v for k, v in row.items() if k.startswith("memory")) for name, row in poses.items()
    }
    assert resources == cited.RESOURCES


def test_single_numbers_are_the_papers(paper: Path) -> None:
    text = paper.read_text()
    assert "Scal3R ATE 4.298, RTE 1.898, RRE 0.639; VGGT-Long 8.637 / 4.717 / 1.416" in text
    assert cited.cited_sequence_metrics("kitti", "00")["Scal3R"] == {
        "ate_rmse_m": 4.298,
        "rte_m_per_100m": 1.898,
        "rre_deg_per_100m": 0.639,
    }
    assert "ScanNet++ ATE 0.08, TUM 0.07, Waymo 1.52" in text
    assert {"scannet_pp": 0.08, "tum": 0.07, "waymo": 1.52} == cited.ATE_ALONE
    assert (
        "w/o GCM 1.30 / 7.03 / 19.00, w/o GCS 1.28 / 7.01 / 15.80, full 1.17 / 5.99 / 13.70 (RRE / RTE / ATE)"
        in text
    )
    assert cited.ABLATION == {
        "Scal3R": (1.17, 5.99, 13.70),
        "without GCS": (1.28, 7.01, 15.80),
        "without GCM": (1.30, 7.03, 19.00),
    }
    assert "150 frames 51.19 s, 990 frames 382.80 s, 2.59-2.93 FPS, RPE 0.07-0.08 m throughout" in text
    assert cited.RUNTIME_RPE_M == (0.07, 0.08)
    assert {150: 51.19, 990: 382.80} == cited.RUNTIME_S


def test_only_what_the_paper_states_is_cited() -> None:
    assert cited.cited_metrics(None) == {} == cited.cited_metrics("synthetic")
    assert cited.cited_metrics("tum") == {"Scal3R": {"ate_rmse_m": 0.07}}
    assert cited.cited_metrics("vkitti2")["Scal3R"] == {
        "rre_deg_per_100m": 0.41,
        "rte_m_per_100m": 0.78,
        "ate_rmse_m": 0.85,
        "chamfer_m": 0.40,
        "f1": 0.91,
    }
    assert cited.cited_sequence_metrics("kitti", "01") == {}
