"""GPS tracks of every kind read to the same places and times, and refused in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.inference.metric.gps_file import GpsTrack, read_gps_track

PLACES = np.array([[50.5, 6.25, 170.0], [50.50012, -6.25, 171.5], [-50.5, 6.251, 172.0]])
TIMES = 1_700_000_000 + np.array([0.0, 0.5, 1.25])  # 2023-11-14T22:13:20Z

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Return a function that writes a file and gives its path."""

    def write(text: str, name: str = "track.txt") -> Path:
        (tmp_path / name).write_bytes(text.encode())
        return tmp_path / name

    return write


def rows(separator: str, *columns: np.ndarray) -> str:
    return "".join(separator.join(map(repr, row)) + "\n" for row in np.column_stack(columns).tolist())


def checked(track: GpsTrack, times: np.ndarray | None = TIMES, *, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(track.place, PLACES, atol=atol)
    assert track.has_height
    if times is None:
        assert track.time is None
    else:
        assert track.time is not None
        np.testing.assert_allclose(track.time, times, atol=1e-6)


@pytest.mark.parametrize("separator", [" ", ",", ";", "\t", ", "])
def test_rows_of_numbers(written: Written, separator: str) -> None:
    checked(read_gps_track(written("# a comment\n" + rows(separator, TIMES, PLACES))))
    checked(read_gps_track(written(rows(separator, PLACES))), None)
    quaternion = np.tile([0.0, 0, 0, 1], (3, 1))
    checked(read_gps_track(written(rows(separator, TIMES, PLACES, quaternion))))


@pytest.mark.parametrize(("unit", "factor"), [("ns", 1e9), ("us", 1e6), ("ms", 1e3), ("s", 1)])
def test_counts_of_any_unit_since_1970(written: Written, unit: str, factor: float) -> None:
    columns = PLACES[:, [1, 0, 2]]
    text = f"Timestamp ({unit}),Longitude [deg],LAT,Altitude(m)\n" + rows(",", TIMES * factor, columns)
    track = read_gps_track(written("\ufeff" + text.replace("\n", "\r\n")))
    checked(track)


def test_a_table_with_dates_and_blanks_in_its_names(written: Written) -> None:
    words = ["2023-11-14 22:13:20", "2023-11-14T22:13:20.5Z", "2023-11-14T23:13:21.250+01:00"]
    lines = [f"{a},{b},{c},{word}" for (a, b, c), word in zip(PLACES.tolist(), words, strict=True)]
    checked(read_gps_track(written("gps_lat,gps_lon,height,date time\n" + "\n".join(lines))))


def test_frames_and_names_instead_of_times(written: Written) -> None:
    track = read_gps_track(written("frame,lat,lon,alt\n" + rows(",", [4.0, 2, 9], PLACES)))
    checked(track, None)
    assert track.frame is not None
    assert track.frame.tolist() == [4, 2, 9]
    lines = [f"my drive/{n}.jpg;{a};{b};{c}" for n, (a, b, c) in enumerate(PLACES.tolist())]
    track = read_gps_track(written("image name;lat;lon;ele\n" + "\n".join(lines)))
    checked(track, None)
    assert track.name == ("my drive/0.jpg", "my drive/1.jpg", "my drive/2.jpg")


def test_gpx(written: Written) -> None:
    words = ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.5Z", "2023-11-14T22:13:21.25Z"]
    points = [
        f'<trkpt lat="{a!r}" lon="{b!r}"><ele>{c!r}</ele><time>{word}</time></trkpt>'
        for (a, b, c), word in zip(PLACES.tolist(), words, strict=True)
    ]
    head = '<?xml version="1.0"?><gpx xmlns="http://www.topografix.com/GPX/1/1"><wpt lat="1" lon="1"/><trk><trkseg>'
    text = head + "".join(points) + "</trkseg></trk></gpx>"
    checked(read_gps_track(written(text)))
    without = read_gps_track(written(text.replace("<ele>171.5</ele>", "")))
    assert not without.has_height
    assert not without.place[:, 2].any()
    with pytest.raises(UserError, match="declares a document type"):
        read_gps_track(written('<!DOCTYPE gpx [<!ENTITY a "aaaa">]>' + text))
    with pytest.raises(UserError, match="is no GPX file"):
        read_gps_track(written(text[:-10]))


def nmea(body: str) -> str:
    total = 0
    for character in body:
        total ^= ord(character)
    return f"${body}*{total:02X}\r\n"


def degrees_and_minutes(value: float, width: int) -> str:
    whole = int(abs(value))
    return f"{whole:0{width}d}{60 * (abs(value) - whole):010.7f}"


def gga(time: str, place: np.ndarray, quality: int = 1) -> str:
    north, east = "N" if place[0] > 0 else "S", "E" if place[1] > 0 else "W"
    where = f"{degrees_and_minutes(place[0], 2)},{north},{degrees_and_minutes(place[1], 3)},{east}"
    return nmea(f"GNGGA,{time},{where},{quality},08,0.9,{place[2]},M,46.9,M,,")


def test_nmea_with_a_midnight_a_lost_fix_and_a_damaged_sentence(written: Written) -> None:
    lines = [
        nmea("GPGSV,1,1,00"),
        gga("235959.50", PLACES[0]),
        nmea("GNRMC,235959.50,A,5030.0,N,00615.0,E,0.0,0.0,141123,,,A"),
        gga("000000.00", PLACES[1]),
        gga("000000.25", PLACES[1], quality=0),
        gga("000000.50", PLACES[2]).replace("172.0", "972.0"),
        "log 12:00 " + gga("000000.75", PLACES[2]),
    ]
    track = read_gps_track(written("".join(lines)))
    midnight = 1_700_006_400  # 2023-11-15T00:00:00Z
    checked(track, midnight + np.array([-0.5, 0, 0.75]), atol=1e-8)
    assert track.num_left_out == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no fixes"),
        ("a b c\n1 2 3\n", "names no columns lat"),
        ("1 2 3 4 5\n", "has 5 numbers; give `time lat lon alt`"),
        ("1 2 3\n1 2\n", "'1 2' is no row of 3 numbers"),
        ("500 120 3\n501 121 3\n", "which is no place in degrees"),
        ("lat,lon\nnan,nan\n", "holds 0 usable fixes of 1"),
        ("lat,lon,frame\n1,2,0.5\n1,2,3\n", "something else than whole numbers"),
        ("time,lat,lon\n1,2\n", "fewer columns than the heading"),
        ("$GPGGA,120000,,,,,0,00,,,M,,M,,\n", "holds no GGA or RMC sentence with a fix"),
    ],
)
def test_what_is_no_track_is_refused(written: Written, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_gps_track(written(text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"alignment.metric.gps .* cannot be read"):
        read_gps_track(tmp_path / "none.csv")
