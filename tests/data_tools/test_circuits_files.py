"""Circuits: the files of the games, read and compared with what independent writers put into them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_data_tools.preparing.circuits import karts, torcs
from scal3r_data_tools.preparing.circuits.ac3d import read_ac3d
from scal3r_data_tools.preparing.circuits.kart_scene import placed_models
from scal3r_data_tools.preparing.circuits.licences import debian_licence, readme_licence
from scal3r_data_tools.preparing.circuits.places import find_circuits
from scal3r_data_tools.preparing.circuits.safe_xml import parse_xml
from scal3r_data_tools.preparing.circuits.sgi import decode_sgi
from scal3r_data_tools.preparing.circuits.spm import read_spm
from scal3r_data_tools.preparing.circuits.textures import MAX_SIDE, read_texture
from scal3r_data_tools.preparing.circuits.world import Material
from scal3r_train.config import UserError
from tests.data_tools.tiny_circuit import LAP, ROAD_Y, WIDTH, sgi_bytes, spm_bytes, write_kart, write_torcs

TWO_SURFACES = """AC3Db
MATERIAL "grey" rgb 0.25 0.5 0.75 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 0 trans 0
OBJECT world
kids 2
OBJECT group
name "g"
kids 1
OBJECT poly
name "strip and fan"
texture "a b.rgb" base
texture "shadow.rgb" tiled
texture empty_texture_no_mapping skids
numvert 5
0 0 0 0 1 0
0 0 1 0 1 0
1 0 0 0 1 0
1 0 1 0 1 0
2 0 0 0 1 0
numsurf 3
SURF 0x14
mat 0
refs 5
0 0 0 0.5 0.1
1 0 1 0.5 0.2
2 1 0 0.5 0.3
3 1 1 0.5 0.4
4 2 0 0.5 0.5
SURF 0x10
mat 0
refs 4
0 0 0 0 0
1 0 1 0 0
3 1 1 0 0
2 1 0 0 0
SURF 0x2
mat 0
refs 2
0 0 0 0 0
1 0 0 0 0
kids 0
OBJECT poly
name "plain"
numvert 3
0 0 0
0 0 1
1 0 0
numsurf 1
SURF 0x20
mat 0
refs 3
0 0 0
1 0 0
2 0 0
kids 0
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="latin-1")
    return path


def test_ac3d_strips_fans_and_both_texture_coordinates(tmp_path: Path) -> None:
    first, second = read_ac3d(written(tmp_path / "m.acc", TWO_SURFACES))
    assert (first.name, first.texture, first.shadow) == ("strip and fan", "a b.rgb", "shadow.rgb")
    assert [sorted(face) for face in first.faces.tolist()] == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [0, 1, 3],
        [0, 2, 3],
    ]
    a, b, c = np.moveaxis(first.vertices[first.faces[:3]], 1, 0)
    assert (np.cross(b - a, c - a)[:, 1] > 0).all(), "all triangles of a strip turn the same way"
    assert first.normals is not None and (first.normals == [0, 1, 0]).all()
    # the second coordinate of each shadow pair counts the vertices
    assert first.shadow_coordinates is not None
    assert (
        np.rint(first.shadow_coordinates[:3, :, 1] * 10 - 1).astype(int).tolist() == first.faces[:3].tolist()
    )
    assert first.texture_coordinates[0, 1].tolist() == first.vertices[first.faces[0, 1], [0, 2]].tolist()
    assert second.normals is None and second.shadow_coordinates is None and not second.texture
    assert second.colour == pytest.approx([0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (("AC3Db", "AC2"), "does not begin with AC3D"),
        (("numvert 5", "numvert 50"), "cannot be read"),
        (("4 2 0 0.5 0.5", "9 2 0 0.5 0.5"), "names a vertex that it does not have"),
        (("4 2 0 0.5 0.5", "4 2 0"), "rows of different lengths"),
        (('name "g"', "loc 1 2 3"), "'loc' is not supported"),
        (("SURF 0x14", "SURF 0x17"), "surface of type 7"),
    ],
)
def test_damaged_ac3d_is_named(tmp_path: Path, damage: tuple[str, str], said: str) -> None:
    path = written(tmp_path / "m.acc", TWO_SURFACES.replace(*damage, 1))
    with pytest.raises(UserError, match=said) as error:
        read_ac3d(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sgi_reads_as_pillow_does(channels: int, is_packed: bool) -> None:
    rng = np.random.default_rng(channels)
    pixels = rng.integers(0, 3, (13, 170, channels), dtype=np.uint8)
    pixels[3] = 7  # runs longer than a count
    data = sgi_bytes(pixels, is_packed=is_packed)
    assert (decode_sgi(data, Path("x.rgb")) == pixels).all()
    theirs = np.asarray(Image.open(BytesIO(data)))
    assert (theirs.reshape(pixels.shape) == pixels).all()


def test_textures_of_every_kind_become_rgba(tmp_path: Path) -> None:
    grey_and_opacity = np.random.default_rng(0).integers(0, 255, (4, 6, 2), dtype=np.uint8)
    (tmp_path / "two.rgb").write_bytes(sgi_bytes(grey_and_opacity, is_packed=True))
    got = read_texture(tmp_path / "two.rgb")
    assert (got[..., [0, 3]] == grey_and_opacity).all() and (got[..., 1] == got[..., 0]).all()
    Image.new("RGB", (2 * MAX_SIDE, 10), (1, 2, 3)).save(tmp_path / "wide.png")
    assert read_texture(tmp_path / "wide.png").shape == (5, MAX_SIDE, 4)
    (tmp_path / "cut.rgb").write_bytes(sgi_bytes(grey_and_opacity, is_packed=True)[:-9])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.rgb", "text.png", "missing.png"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_texture(tmp_path / name)


def test_xml_fetches_and_unfolds_nothing(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", "secret")
    outside = f'<!DOCTYPE a [<!ENTITY e SYSTEM "{secret.as_uri()}">]><a>x&e;y</a>'
    assert parse_xml(written(tmp_path / "outside.xml", outside)).text == "xy"
    bomb = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><a>&b;</a>'
    with pytest.raises(UserError, match="declares the entity 'a'"):
        parse_xml(written(tmp_path / "bomb.xml", bomb))
    with pytest.raises(UserError, match="declares the entity 'p'"):
        parse_xml(written(tmp_path / "parameter.xml", '<!DOCTYPE a [<!ENTITY % p "x">]><a/>'))
    with pytest.raises(UserError, match="is no valid XML"):
        parse_xml(written(tmp_path / "broken.xml", "<a><b></a>"))
    latin = written(tmp_path / "latin.xml", '<?xml version="1.0" encoding="UTF-8"?><a n="\xe9"/>')
    assert parse_xml(latin).get("n") == "\xe9"


def test_spm_vertices_and_faces(tmp_path: Path) -> None:
    corners = np.array([[0, 1, 2, 0.25, 0.5], [3, 4, 5, 1, 0], [6, 7, 8, 0, 1]], float)
    path = tmp_path / "m.spm"
    path.write_bytes(spm_bytes(corners, [(0, 1, 2)], "road.png", (255, 0, 51)))
    (buffer,) = read_spm(path)
    assert (buffer.positions == corners[:, :3]).all()
    assert (buffer.coordinates == corners[:, 3:]).all()
    assert buffer.normals == pytest.approx(np.tile([0, 1, 0], (3, 1)))
    assert buffer.colours == pytest.approx(np.tile([1, 0, 0.2], (3, 1)))
    assert buffer.faces.tolist() == [[0, 1, 2]] and buffer.texture == "road.png"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"m\.spm cannot be read"):
        read_spm(path)


def test_licences_as_they_are_written_down(tmp_path: Path) -> None:
    write_torcs(tmp_path)
    free = readme_licence(tmp_path / "tracks" / "road" / "tiny" / "readme.txt")
    assert (free.terms, free.authors) == ("Free Art License", "2001 Ada Byron")
    gpl = readme_licence(written(tmp_path / "r.txt", "Track from Grace Hopper (GPL v2)."))
    assert (gpl.terms, gpl.authors) == ("GPL-2.0", "Track from Grace Hopper (GPL v2)")
    assert readme_licence(tmp_path / "none").terms == "unknown"
    rules = """Format: x

Files: *
Copyright: 2000 Team
License: GPL-3+

Files: data/tracks/a/*
 data/tracks/b/*.png
Copyright:
 2001 One
 2002 Two
License: CC-BY-SA-3.0
 text that goes on
"""
    copyright_file = written(tmp_path / "copyright", rules)
    root = tmp_path / "game"
    all_of = debian_licence(
        copyright_file, root, [root / "data/tracks/b/x.png", root / "data/tracks/b/x.spm"]
    )
    assert all_of.terms == "CC-BY-SA-3.0, GPL-3+"
    assert all_of.authors == "2000 Team; 2001 One; 2002 Two"


def test_circuit_of_torcs(tmp_path: Path) -> None:
    write_torcs(tmp_path)
    (folder,) = torcs.find_tracks(tmp_path)
    world, route = torcs.load_circuit(folder, tmp_path)
    assert set(world.triangles) == {Material("road.rgb", "shade.rgb"), Material("grass.png")}
    assert world.light.direction.tolist() == [0, 1, 0], "the track's z is the mesh's y"
    assert {path.name for path in world.files} >= {"tiny.acc", "road.rgb", "grass.png", "background.png"}
    assert world.repeats == 1
    assert route.length == pytest.approx(LAP, rel=1e-3)
    assert route.width == pytest.approx(WIDTH)
    assert route.points[:, 1] == pytest.approx(np.full(len(route.points), ROAD_Y))
    description = folder / "tiny.xml"
    whole = description.read_text()
    (folder / "tiny.acc").write_text((folder / "tiny.acc").read_text().replace("TKMN", "road"))
    description.write_text(whole.replace('name="radius" val="30.0"', 'name="radius" val="0"'))
    with pytest.raises(UserError, match=r"road/tiny is not as the data set writes it \(ZeroDivisionError"):
        torcs.load_circuit(folder, tmp_path)
    description.write_text(whole)
    (folder / "tiny.acc").unlink()
    with pytest.raises(UserError, match=r"has no mesh tiny\.acc"):
        torcs.load_circuit(folder, tmp_path)


def test_kart_track_is_turned_round_and_lies_on_its_ground(tmp_path: Path) -> None:
    write_kart(tmp_path)
    (folder,) = karts.find_tracks(tmp_path)
    (model,) = placed_models(folder, tmp_path)
    assert model.world_from_model[:3, 3].tolist() == [10, 1, 20]
    world, route = karts.load_circuit(folder, tmp_path)
    (triangles,) = world.triangles.values()
    assert np.ptp(triangles[..., :3], axis=(0, 1)).tolist() == [100, 0, 100]
    assert triangles[..., 2].min() == -70 and triangles[..., 2].max() == 30
    white = triangles[(triangles[..., 6] == 1) & (triangles[..., 7] == 1)]  # top right of the picture
    assert (white[:, [0, 2]] == [60, -70]).all()
    assert route.points[:, 1] == pytest.approx(np.ones(len(route.points)))
    assert route.length == pytest.approx(160, rel=0.01)
    scene = folder / "scene.xml"
    whole = scene.read_text()
    scene.write_text(whole.replace('<sun xyz="0 50 0"/>', '<sun xyz="0 0 0"/>'))
    assert karts.load_circuit(folder, tmp_path)[0].light.direction.tolist() == [0, 1, 0]
    group = '<lod><group name="g"><model model="m.spm" lod_distance="x"/></group></lod>'
    scene.write_text(whole.replace("</scene>", f"{group}</scene>"))
    with pytest.raises(UserError, match=r"is not as the data set writes it \(ValueError.*'x'"):
        karts.load_circuit(folder, tmp_path)
    assert route.points[:, 2].min() == pytest.approx(-40, abs=0.5), "z is turned round"


def test_both_packages_may_lie_in_one_source(tmp_path: Path) -> None:
    write_torcs(tmp_path / "usr/share/games/torcs", "b-track")
    write_torcs(tmp_path / "usr/share/games/torcs", "a-track")
    write_kart(tmp_path / "usr/share/games/supertuxkart/data")
    names = [circuit.name for circuit in find_circuits(tmp_path)]
    assert names == ["a-track", "b-track", "kart-square-track"], "by name, race circuits first"
    assert [circuit.name for circuit in find_circuits(tmp_path / "usr/share/games/torcs")] == names[:2]
    with pytest.raises(UserError, match="holds no circuit; unpack the package"):
        find_circuits(tmp_path / "usr/share")
