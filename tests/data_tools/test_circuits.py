"""Circuits: pictures and depth against closed forms, and `data prepare circuits` as a whole. Skipped without OpenGL."""

import json
from pathlib import Path
from shutil import copytree, rmtree
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from scal3r_data_tools import index, prepare
from scal3r_data_tools.adapters import circuits as layout
from scal3r_data_tools.preparing.circuits import photograph
from scal3r_data_tools.preparing.circuits import prepare as circuits_prepare
from scal3r_data_tools.preparing.circuits.renderer import Fog, Renderer
from scal3r_data_tools.preparing.circuits.world import Light, Material, World, corners
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import read_frame_depth, read_frame_image
from scal3r_train.data.sampling.deny_list import denied
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.tiny_circuit import write_kart, write_torcs

HW = (60, 80)
INTRINSICS = np.array([50.0, 55.0, 42.0, 27.0])
LIGHT = Light(np.array([0.0, 1, 0]), np.ones(3), np.zeros(3))
OPTIONS = ["width=72", "height=42", "laps=0.1", "num_workers=1"]


@pytest.fixture(scope="module", autouse=True)
def opengl() -> None:
    moderngl = pytest.importorskip("moderngl", reason="moderngl renders the circuits")
    try:
        moderngl.create_context(standalone=True, backend="egl").release()
    except Exception as error:
        pytest.skip(f"no EGL driver: {error}")


def quad(points: list[tuple[float, float, float]]) -> np.ndarray:
    """Two triangles of four corners, whose texture has its bottom left at the first and goes round."""
    order = np.array([[0, 1, 2], [0, 2, 3]])
    at = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    return corners(np.array(points, float)[order], None, at[order], None, np.ones(3))


def world_of(triangles: dict[Material, np.ndarray], textures: dict[str, np.ndarray]) -> World:
    return World(triangles, textures, np.full((8, 16, 3), 100, np.uint8), 1, LIGHT)


def looking_along_x(height: float, pitch: float) -> np.ndarray:
    """world_from_cam of a camera above the origin; z is to its right, positive pitch looks down."""
    c, s = np.cos(pitch), np.sin(pitch)
    return np.array([[0, -s, c, 0], [0, -c, -s, height], [1, 0, 0, 0]])


def test_depth_of_a_plane_is_exact_and_the_rest_is_sky() -> None:
    ground = quad([(-5000, 0, -5000), (5000, 0, -5000), (5000, 0, 5000), (-5000, 0, 5000)])
    renderer = Renderer(world_of({Material(""): ground}, {}), HW)
    camera = looking_along_x(1.7, 0.1)
    _, depth = renderer.render(camera, INTRINSICS)
    v, u = np.mgrid[: HW[0], : HW[1]] + 0.5
    rays = np.stack(
        [(u - INTRINSICS[2]) / INTRINSICS[0], (v - INTRINSICS[3]) / INTRINSICS[1], np.ones(HW)], -1
    )
    with np.errstate(divide="ignore"):
        exact = 1.7 / -(rays @ camera[1, :3])  # z = 1, times how often a ray's fall fits in the height
    is_seen = (exact > 0) & (exact < 3000)
    assert depth[is_seen] == pytest.approx(exact[is_seen], rel=1e-4)
    assert (depth[exact < 0] == 0).all()
    assert is_seen.mean() > 0.5
    counts = photograph.depth_counts(depth)
    assert (counts[exact < 0] == 65535).all()
    assert (counts[(exact > 656) & is_seen] == 0).all()
    near = is_seen & (exact < 650)
    assert counts[near] / 100 == pytest.approx(exact[near], abs=0.0051 + 1e-4 * 650)


def test_pictures_stand_upright_and_are_not_mirrored() -> None:
    """A wall across the view with four colours; right is +z."""
    wall = quad([(10, 0, -4), (10, 0, 4), (10, 6, 4), (10, 6, -4)])
    texture = np.full((2, 2, 4), 255, np.uint8)
    texture[..., :3] = [[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (240, 240, 0)]]
    texture = texture.repeat(16, 0).repeat(16, 1)
    image, depth = Renderer(world_of({Material("t"): wall}, {"t": texture}), HW).render(
        looking_along_x(3, 0), np.array([50.0, 50, 40, 30])
    )
    assert depth[20:40, 25:55] == pytest.approx(np.full((20, 30), 10))
    for row, column, colour in (
        (20, 28, (250, 0, 0)),
        (20, 52, (0, 250, 0)),
        (40, 28, (0, 0, 250)),
        (40, 52, (240, 240, 0)),
    ):
        assert image[row, column] == pytest.approx(colour, abs=2)
    assert image[0, 0] == pytest.approx([100, 100, 100], abs=1), "the panorama behind it"


def test_what_is_transparent_is_neither_seen_nor_deep() -> None:
    near = quad([(5, -9, -9), (5, -9, 9), (5, 9, 9), (5, 9, -9)])
    far = quad([(20, -99, -99), (20, -99, 99), (20, 99, 99), (20, 99, -99)])
    leaves = np.zeros((32, 32, 4), np.uint8)
    leaves[:, :16] = [200, 0, 0, 255]
    plain = np.full((1, 1, 4), [0, 0, 200, 255], np.uint8)
    world = world_of({Material("leaves"): near, Material("plain"): far}, {"leaves": leaves, "plain": plain})
    image, depth = Renderer(world, HW).render(looking_along_x(0, 0), np.array([50.0, 50, 40, 30]))
    assert depth[30, 30] == pytest.approx(5) and image[30, 30] == pytest.approx([200, 0, 0], abs=2)
    assert depth[30, 50] == pytest.approx(20) and image[30, 50] == pytest.approx([0, 0, 200], abs=2)


def test_shadow_maps_darken_and_fog_hides() -> None:
    wall = quad([(10, -99, -99), (10, -99, 99), (10, 99, 99), (10, 99, -99)])
    wall[..., 8:10] = 0.5
    textures = {"t": np.full((1, 1, 4), 200, np.uint8), "s": np.full((1, 1, 4), 51, np.uint8)}
    textures["t"][..., 3] = 255
    renderer = Renderer(world_of({Material("t", "s"): wall}, textures), HW)
    image, _ = renderer.render(looking_along_x(0, 0), INTRINSICS)
    assert image == pytest.approx(np.full((*HW, 3), 200 * 51 / 255), abs=1)
    image, depth = renderer.render(looking_along_x(0, 0), INTRINSICS, Fog(np.array([1.0, 0.5, 0]), 0.1))
    left = np.exp(-1)
    expected = left * 40 + (1 - left) * np.array([255, 127.5, 0])
    assert image[10, 10] == pytest.approx(expected, abs=1)
    assert depth == pytest.approx(np.full(HW, 10)), "fog hides from the picture only"


def test_cells_outside_of_the_picture_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    centre = rng.uniform(-400, 400, (500, 1, 3)) * [1, 0.02, 1]
    scattered = corners(
        centre + rng.normal(0, 4, (500, 3, 3)), None, np.zeros(2), None, rng.uniform(size=(500, 1, 3))
    )
    scattered = scattered.astype(np.float32)
    renderer = Renderer(world_of({Material(""): scattered}, {}), HW)
    apart = Renderer(world_of({Material(""): scattered[::-1].copy()}, {}), HW)
    apart._visible_runs = lambda clip: [
        (batch, [(0, int(batch.first_corner[-1]))]) for batch in apart._batches
    ]  # type: ignore[method-assign]
    for pitch in (0.0, 0.3):
        for ours, theirs in zip(
            renderer.render(looking_along_x(2, pitch), INTRINSICS),
            apart.render(looking_along_x(2, pitch), INTRINSICS),
            strict=True,
        ):
            assert (ours == theirs).mean() > 0.999


def test_exposure_and_noise_of_a_picture() -> None:
    style = SimpleNamespace(tint=np.ones(3), noise=0.0)
    image = np.full((200, 200, 3), 100, np.float32)
    rng = np.random.default_rng(0)
    assert (photograph.photograph(image, style, 1.5, rng) == 150).all()
    bright = photograph.photograph(np.array([[[204.0, 250, 255]]], np.float32), style, 1.0, rng)[0, 0]
    assert bright[0] == 204 and 204 < bright[1] < bright[2] < 250
    noisy = photograph.photograph(image, SimpleNamespace(tint=np.ones(3), noise=4.0), 1.0, rng)
    assert noisy.mean() == pytest.approx(100, abs=0.1) and noisy.std() == pytest.approx(4, abs=0.1)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


COPYRIGHT = "Files: *\nCopyright: 2000, Alan Turing\nLicense: GPL-2+\n"


def source_with(folder: Path, *names: str) -> Path:
    for name in names:
        write_torcs(folder / "usr/share/games/torcs", name)
    stated = folder / "usr/share/doc/torcs-data/copyright"
    stated.parent.mkdir(parents=True)
    stated.write_text(COPYRIGHT)
    return folder


def share_of_agreement(record: SequenceRecord, first: int, second: int) -> float:
    """How much of the depth that frame `first` has, moved to frame `second`, is what that one has there, to 2 %.

    Between pixels 1 / z is interpolated, which is linear on a plane.
    """
    (fx, fy, cx, cy), depth = record.intrinsics[first], read_frame_depth(record, first)
    v, u = np.nonzero(depth > 0)
    z = depth[v, u]
    points = np.stack([(u + 0.5 - cx) / fx * z, (v + 0.5 - cy) / fy * z, z, np.ones_like(z)])
    poses = [np.vstack([record.cam_from_world[i], [0, 0, 0, 1]]) for i in (first, second)]
    x, y, z, _ = poses[1] @ np.linalg.inv(poses[0]) @ points
    at = np.stack([y / z * fy + cy, x / z * fx + cx]) - 0.5
    there = read_frame_depth(record, second)
    inverse = np.where(there > 0, 1 / np.where(there > 0, there, 1), np.nan)
    there = 1 / map_coordinates(inverse, at, order=1, cval=np.nan)
    is_seen = np.isfinite(there) & (z > 0.3)
    assert is_seen.mean() > 0.1
    return float((np.abs(there / z - 1)[is_seen] < 0.02).mean())


def test_drives_are_rendered_indexed_and_agree_with_themselves(tmp_path: Path) -> None:
    source = source_with(tmp_path / "src", "tiny", "eroad", "dirt-3")
    write_kart(source / "usr/share/games/supertuxkart/data")
    assert prepare.main("circuits", source, tmp_path / "out", OPTIONS) == 0
    assert index.main("circuits", tmp_path / "out", tmp_path / "out" / "index.parquet") == 0
    found = load_index(tmp_path / "out" / "index.parquet")
    assert found.sequence_ids == [
        f"{name}/{number:03d}"
        for name in ("dirt-3", "eroad", "kart-square-track", "tiny")
        for number in (0, 1)
    ]
    assert [found[row].split for row in (0, 2, 4, 6)] == ["test", "val", "train", "train"]
    record = found[6]
    assert record.licence == "Free Art License, GPL-2+", "the meadow's texture is one that tracks share"
    assert record.source == "TORCS, tiny: 2001 Ada Byron; 2000, Alan Turing"
    assert record.is_metric and not found[4].is_metric
    assert record.image_size[0].tolist() == [42, 72]
    image, depth = read_frame_image(record, 0), read_frame_depth(record, 0)
    assert image.shape[:2] == depth.shape == (42, 72)
    assert (depth == -1).any() and (depth > 0).mean() > 0.3
    for row in (4, 6, 7):
        assert share_of_agreement(found[row], 1, 2) > 0.85
    assert index.main("circuits", tmp_path / "out", tmp_path / "low.parquet", ["camera_height=0.05"]) == 0
    low = load_index(tmp_path / "low.parquet")[6]
    height = json.loads((tmp_path / "out" / record.sequence_id / "drive.json").read_text())["style"]["height"]
    unit = height / 0.05
    assert not low.is_metric
    np.testing.assert_allclose(low.cam_from_world[..., 3] * unit, record.cam_from_world[..., 3])
    np.testing.assert_allclose(
        np.maximum(read_frame_depth(low, 0), 0) * unit, np.maximum(depth, 0), rtol=1e-6
    )
    assert share_of_agreement(low, 1, 2) > 0.85


def test_same_seed_same_bytes_and_stopped_drives_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_with(tmp_path / "src", "tiny")
    for name in ("a", "b"):
        prepare.main("circuits", source, tmp_path / name, OPTIONS)
    whole = content(tmp_path / "a")
    assert content(tmp_path / "b") == whole
    render = Renderer.render
    drawn = []

    def stopped(self, *arguments):
        drawn.append(arguments)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return render(self, *arguments)

    monkeypatch.setattr(Renderer, "render", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare.main("circuits", source, tmp_path / "c", OPTIONS)
    partial = tmp_path / "c" / "tiny" / ".000.partial"
    assert len(list((partial / "depth").iterdir())) == 4
    with pytest.raises(UserError, match="holds no sequence"):
        index.main("circuits", tmp_path / "c", tmp_path / "index.parquet")
    copytree(tmp_path / "a" / "tiny" / "001", tmp_path / "c" / "tiny" / "001")
    capsys.readouterr()
    assert index.main("circuits", tmp_path / "c", tmp_path / "index.parquet") == 0
    assert "1 sequence not rendered to the end is left out, .000.partial" in capsys.readouterr().err
    rmtree(tmp_path / "c" / "tiny" / "001")
    last = partial / "depth" / "000003.png"
    last.write_bytes(last.read_bytes()[:20])  # as a crash may leave it
    prepare.main("circuits", source, tmp_path / "c", OPTIONS)
    assert content(tmp_path / "c") == whole
    num_frames = sum(name.endswith(".jpg") for name in whole)
    assert len(drawn) == num_frames + 2, "one that was stopped and one that was begun are drawn again"
    prepare.main("circuits", source, tmp_path / "c", OPTIONS)
    assert len(drawn) == num_frames + 2


@pytest.mark.slow
def test_workers_make_no_difference(tmp_path: Path) -> None:
    source = source_with(tmp_path / "src", "tiny", "other")
    for name, workers in (("a", 1), ("b", 2)):
        prepare.main("circuits", source, tmp_path / name, [*OPTIONS[:-1], f"num_workers={workers}"])
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_options_choose_and_may_not_change(tmp_path: Path) -> None:
    source = source_with(tmp_path / "src", "tiny", "eroad")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no circuit named tinny; known are eroad, tiny"):
        prepare.main("circuits", source, out, ["circuits=[tinny]"])
    prepare.main("circuits", source, out, [*OPTIONS, "circuits=[tiny]", "drives=1", "max_frames=4"])
    assert sorted(path.name for path in out.iterdir()) == ["options.json", "tiny"]
    assert len(list((out / "tiny" / "000" / "rgb").iterdir())) == 4
    with pytest.raises(UserError, match="was made with other options"):
        prepare.main("circuits", source, out, [*OPTIONS, "max_frames=5"])
    prepare.main("circuits", source, out, [*OPTIONS, "max_frames=4", "drives=3"])
    assert sorted(path.name for path in (out / "tiny").iterdir()) == ["000", "001", "002"]
    assert sorted(path.name for path in (out / "eroad").iterdir()) == ["000", "001"], (
        "held out: one in each direction"
    )
    assert len(list((out / "eroad" / "000" / "rgb").iterdir())) > 4, "held out: driven whole"


def test_what_cannot_be_rendered_is_one_line_and_blocks_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = source_with(tmp_path / "src", "tiny"), tmp_path / "out"
    with pytest.raises(UserError, match="a drive has at least 2 frames"):
        prepare.main("circuits", source, out, [*OPTIONS, "max_frames=1"])
    description = source / "usr/share/games/torcs/tracks/road/tiny/tiny.xml"
    whole = description.read_text()
    description.write_text(
        whole.replace('name="light position z" val="100"', 'name="light position z" val="1e"')
    )
    with pytest.raises(UserError, match=r"road/tiny is not as the data set writes it \(ValueError.*'1e'"):
        prepare.main("circuits", source, out, [*OPTIONS, "circuits=[tiny]"])
    description.write_text(whole)
    (source / "usr/share/doc/torcs-data/copyright").unlink()
    prepare.main("circuits", source, out, [*OPTIONS, "laps=0.001", "drives=1", "circuits=[tiny,tiny]"])
    assert len(list((out / "tiny" / "000" / "rgb").iterdir())) == 2, (
        "other options than the start that failed"
    )
    assert "tiny: the licence of some of its files is not written down" in capsys.readouterr().err
    assert (
        json.loads((out / "tiny" / "000" / "drive.json").read_text())["licence"]
        == "Free Art License, unknown"
    )


def test_pictures_too_large_for_the_card_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import moderngl

    class Small:
        def texture(self, *arguments: object, **options: object) -> None:
            raise RuntimeError("the framebuffer is not complete")

        depth_renderbuffer = texture

    monkeypatch.setattr(moderngl, "create_context", lambda **options: Small())
    world = world_of({Material(""): quad([(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)])}, {})
    with pytest.raises(
        UserError, match="more than this OpenGL holds .*; lower width, height or supersampling"
    ):
        Renderer(world, HW)


def test_rounds_go_over_all_circuits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_with(tmp_path / "src", "tiny", "another")
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(
        circuits_prepare, "render_drive", lambda circuit, number, *rest: made.append((circuit.name, number))
    )
    prepare.main("circuits", source, tmp_path / "out", OPTIONS)
    assert made == [("another", 0), ("tiny", 0), ("another", 1), ("tiny", 1)]


def test_held_out_circuits_are_denied_whatever_an_index_says() -> None:
    names = [f"{name}/000" for name in sorted(layout.TEST)]
    assert names == ["aalborg/000", "dirt-3/000", "g-track-3/000", "ruudskogen/000", "wheel-1/000"]
    assert all(denied(["circuits"] * 5, names, ["train"] * 5))
    others = ["dirt-4/000", "wheel-2/001", "kart-zengarden/000"]
    assert not any(denied(["circuits"] * 3, others, ["train"] * 3))
    assert denied(["circuits"], ["eroad/000"], [layout.split_of("eroad")]) == [True]
    assert not layout.TEST & layout.VALIDATION


def test_missing_renderer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import moderngl

    def fails(**options: object) -> None:
        raise RuntimeError("libEGL.so not loaded")

    monkeypatch.setattr(moderngl, "create_context", fails)
    with pytest.raises(
        UserError, match=r"no EGL driver answers \(libEGL.so not loaded\).*scal3r_train\[render\]"
    ):
        Renderer(world_of({Material(""): quad([(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)])}, {}), HW)


def test_finished_drives_are_plain_pictures(tmp_path: Path) -> None:
    source = source_with(tmp_path / "src", "tiny")
    prepare.main("circuits", source, tmp_path / "out", [*OPTIONS, "drives=1", "max_frames=2"])
    folder = tmp_path / "out" / "tiny" / "000"
    assert Image.open(folder / "rgb" / "000001.jpg").size == (72, 42)
    assert np.asarray(Image.open(folder / "depth" / "000001.png")).dtype == np.uint16
