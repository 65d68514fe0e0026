"""Writers of circuits in miniature, after the formats' descriptions and without the code under test.

`write_torcs` makes a stadium of two straights and two half circles, 10 m wide and 3 m high, on a meadow; `write_kart` a
square of SuperTuxKart. `spm_bytes` and `sgi_bytes` write single files.
"""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

STRAIGHT, RADIUS, WIDTH, ROAD_Y, GROUND_Y = 100.0, 30.0, 10.0, 3.0, 2.5
LAP = 2 * STRAIGHT + 2 * np.pi * RADIUS
SHIFT = np.array([60.0, 40.0])  # where the mesh has the start of the course
README = (
    "Track\n\nCopyright \xa9 2001 Ada Byron\n\nCopyleft: free according to terms of the Free Art license.\n"
)
DRESSED = '<!DOCTYPE params SYSTEM "params.dtd" [ <!ENTITY default-surfaces SYSTEM "surfaces.xml"> ]>'


def stadium(along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and unit headings [N, 2] of the course, anticlockwise from the origin along x."""
    half = STRAIGHT + np.pi * RADIUS
    s = np.mod(along, LAP)
    second = s >= half
    s = np.where(second, s - half, s)
    angle = np.maximum(s - STRAIGHT, 0) / RADIUS
    x = np.minimum(s, STRAIGHT) + RADIUS * np.sin(angle)
    y = RADIUS * (1 - np.cos(angle))
    heading = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.stack([x, y], 1)
    turned = np.array([STRAIGHT, 2 * RADIUS]) - points
    return np.where(second[:, None], turned, points), np.where(second[:, None], -heading, heading)


def write_torcs(
    folder: Path, name: str = "tiny", category: str = "road", *, has_strips: bool = True, start: float = 0.0
) -> None:
    """Write the track below a game's data folder; without strips of the usual name, its line is only in the XML."""
    track = folder / "tracks" / category / name
    track.mkdir(parents=True)
    (track / "readme.txt").write_text(README, encoding="latin-1")
    (track / f"{name}.xml").write_text(_xml(), encoding="utf-8")
    (track / f"{name}.acc").write_text(_acc("TKMN" if has_strips else "road", start), encoding="latin-1")
    rng = np.random.default_rng(5)
    coarse = rng.integers(40, 215, (16, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    (track / "road.rgb").write_bytes(sgi_bytes(coarse, is_packed=True))
    (track / "shade.rgb").write_bytes(sgi_bytes(np.full((4, 4, 3), 200, np.uint8), is_packed=False))
    (folder / "data" / "textures").mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(60, 200, (64, 64, 3), dtype=np.uint8)).save(
        folder / "data" / "textures" / "grass.png"
    )
    Image.fromarray(np.full((32, 64, 3), (90, 140, 230), np.uint8)).save(track / "background.png")


def _xml() -> str:
    half = "".join(
        f'<section name="{name}"><attstr name="type" val="{kind}"/>{size}</section>'
        for name, kind, size in (
            ("s", "str", f'<attnum name="lg" unit="m" val="{STRAIGHT}"/>'),
            (
                "c",
                "lft",
                f'<attnum name="radius" val="{RADIUS}"/><attnum name="arc" unit="deg" val="180"/>',
            ),
        )
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{DRESSED}<params name="tiny">&default-surfaces;'
        '<section name="Graphic"><attstr name="background image" val="background.png"/>'
        '<attnum name="light position z" val="100"/></section>'
        f'<section name="Main Track"><attnum name="width" unit="m" val="{WIDTH}"/>'
        f'<section name="Track Segments">{half}{half}</section></section></params>'
    )


def _acc(strip_name: str, start: float) -> str:
    """The mesh: four strips of road, each from right and left edges in turn, and a meadow of one polygon."""
    lines = [
        "AC3Db",
        'MATERIAL "" rgb 0.5 0.6 0.7 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 0 trans 0',
        "OBJECT world",
    ]
    lines += ["kids 5"]
    cuts = start + np.linspace(0, LAP, 161)
    for number in range(4):
        at = cuts[40 * number : 40 * number + 41]
        points, heading = stadium(at)
        left = np.stack([-heading[:, 1], heading[:, 0]], 1)
        edges = np.stack([points - left * WIDTH / 2, points + left * WIDTH / 2], 1).reshape(-1, 2) + SHIFT
        lines += ["OBJECT poly", f'name "{strip_name}{number}"', 'texture "road.rgb" base']
        lines += [
            'texture "shade.rgb" tiled',
            "texture empty_texture_no_mapping skids",
            f"numvert {len(edges)}",
        ]
        lines += [f"{x} {ROAD_Y} {-y} 0 1 0" for x, y in edges]
        lines += ["numsurf 1", "SURF 0x34", "mat 0", f"refs {len(edges)}"]
        lines += [f"{i} {at[i // 2] / 8} {i % 2} 0.5 0.5" for i in range(len(edges))]
        lines += ["kids 0"]
    lines += ["OBJECT poly", 'name "meadow"', 'texture "grass.png"', "numvert 4"]
    lines += [f"{x} {GROUND_Y} {z}" for x, z in ((-300, -400), (500, -400), (500, 300), (-300, 300))]
    lines += [
        "numsurf 1",
        "SURF 0x30",
        "mat 0",
        "refs 4",
        "0 0 0",
        "1 90 0",
        "2 90 90",
        "3 0 90",
        "kids 0",
        "",
    ]
    return "\n".join(lines)


def sgi_bytes(pixels: np.ndarray, *, is_packed: bool) -> bytes:
    """An SGI image of pixels [H, W, C] uint8."""
    height, width, channels = pixels.shape
    dimensions = 3 if channels > 1 else 2
    header = struct.pack(">HBBHHHHII", 474, int(is_packed), 1, dimensions, width, height, channels, 0, 255)
    header = header.ljust(512, b"\0")
    rows = [pixels[::-1][y, :, c].tolist() for c in range(channels) for y in range(height)]
    if not is_packed:
        return header + b"".join(bytes(row) for row in rows)
    packed = [_packed(row) for row in rows]
    starts = np.cumsum([0, *[len(row) for row in packed[:-1]]]) + 512 + 8 * len(packed)
    table = starts.astype(">u4").tobytes() + np.array([len(row) for row in packed], ">u4").tobytes()
    return header + table + b"".join(packed)


def _packed(row: list[int]) -> bytes:
    """Runs of three and more as a count and a value, everything else as it is."""
    out = b""
    i = 0
    while i < len(row):
        run = 1
        while i + run < len(row) and run < 100 and row[i + run] == row[i]:
            run += 1
        if run >= 3:
            out += bytes([run, row[i]])
        else:
            out += bytes([128 | run]) + bytes(row[i : i + run])
        i += run
    return out + b"\0"


def spm_bytes(
    corners: np.ndarray, faces: list[tuple[int, int, int]], texture: str, colour: tuple[int, ...]
) -> bytes:
    """A mesh of SuperTuxKart with normals along y and one colour, from corners [V, 5] (position, texture)."""
    name = texture.encode()
    out = b"SP" + bytes([1 << 3 | 0, 0b011]) + bytes(24)
    out += struct.pack("<H", 1) + bytes([len(name)]) + name + bytes([0])
    out += struct.pack("<H", 1) + bytes(24) + struct.pack("<H", 1)
    out += struct.pack("<IIH", len(corners), 3 * len(faces), 0)
    for x, y, z, u, v in corners:
        out += struct.pack("<3f", x, y, z) + struct.pack("<I", 511 << 10)
        out += bytes([128]) if colour == (255, 255, 255) else bytes([255, *colour])
        out += struct.pack("<2e", u, v)
    return out + bytes(index for face in faces for index in face)


def write_kart(folder: Path, name: str = "square_track") -> None:
    """Write a square of 40 m, anticlockwise in the game's left-handed plan, and its ground 5 cm below the line."""
    track = folder / "tracks" / name
    track.mkdir(parents=True)
    ground = np.array([[-50, 0, -50, 0, 1], [50, 0, -50, 1, 1], [50, 0, 50, 1, 0], [-50, 0, 50, 0, 0]], float)
    (track / "ground.spm").write_bytes(
        spm_bytes(ground, [(0, 1, 2), (0, 2, 3)], "ground.png", (255, 255, 255))
    )
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1] = 255
    Image.fromarray(pixels).save(track / "ground.png")
    (track / "materials.xml").write_text('<materials><material name="ground.png"/></materials>')
    (track / "scene.xml").write_text(
        '<scene><track model="ground.spm" x="10" y="1" z="20"/><sun xyz="0 50 0"/>'
        '<static-object model="ground.spm" interaction="physics-only" xyz="0 9 0"/></scene>'
    )
    corners = [(0, 0), (20, 0), (40, 0), (40, 20), (40, 40), (20, 40), (0, 40), (0, 20)]
    outward = [(-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0)]
    edges = [
        [f"{x - 3 * dx} 1.05 {z - 3 * dz}", f"{x + 3 * dx} 1.05 {z + 3 * dz}"]
        for (x, z), (dx, dz) in zip(corners, outward, strict=True)
    ]
    quads = []
    for i in range(8):
        front = edges[i] if i == 0 else [f"{i - 1}:3", f"{i - 1}:2"]
        back = edges[(i + 1) % 8][::-1]
        quads.append('<quad p0="{}" p1="{}" p2="{}" p3="{}"/>'.format(*front, *back))
    (track / "quads.xml").write_text(f"<quads>{''.join(quads)}</quads>")
    (track / "graph.xml").write_text('<graph><edge-loop from="0" to="7"/></graph>')
