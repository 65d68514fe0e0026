"""GPS tracks in whatever file somebody has them: latitude, longitude, height, and to which moment each belongs.

    GPX         track points with `ele` and `time`; routes and way points where there is no track
    NMEA        GGA sentences ($GPGGA, $GNGGA, ..); the date is that of RMC; sentences with a wrong checksum or without
                a fix are left out and counted
    CSV         a heading names the columns: latitude, longitude, and if there are any altitude, time (seconds, milli-,
                micro- or nanoseconds since 1970 or any other start, or ISO 8601), frame (of the input) or image name
    rows        numbers alone: `lat lon`, `lat lon alt`, `time lat lon alt`, or with a quaternion behind it as in TUM
Blanks, commas, semicolons or tabs stand between columns; `#` starts a comment. Without time, frame and name a row
belongs to each frame. Shapes: N fixes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.text_file import is_number, read_text_file

SECONDS_PER_DAY = 86400.0
UNITS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))  # seconds since 1970 have ten digits
COLUMNS = {
    "lat": re.compile(r"(gps_?)?lat(itude)?(_deg(rees)?)?"),
    "lon": re.compile(r"(gps_?)?(lon|lng|long|longitude)(_deg(rees)?)?"),
    "alt": re.compile(r"(gps_?)?(alt(itude)?|ele(vation)?|height|h)(_m(eters|etres)?)?"),
    "time": re.compile(
        r"(gps_?|unix_?)?(time(_?stamps?)?|stamp|t|utc|epoch|date_?time)(_s|_ms|_us|_ns|_utc|_iso)?"
    ),
    "frame": re.compile(r"(frame|image)(_?(number|index|id|no))?|index"),
    "name": re.compile(r"(image|file|frame)_?(name|path)|name|file"),
}
SENTENCE = re.compile(r"\$(?P<body>[A-Z]{2}(?P<kind>GGA|RMC),[^*\r\n]*)(?:\*(?P<sum>[0-9A-Fa-f]{2}))?")


@dataclass(frozen=True, eq=False)
class GpsTrack:
    """Fixes in the order of the file.

    Attributes:
        place: [N, 3] float64, latitude and longitude in degrees, height in metres.
        time: [N] float64 seconds, None without.
        frame: [N] int64 frames of the input, None without.
        name: what the file calls the images, () without.
        has_height: whether heights are known; they are 0 where not.
        num_left_out: fixes that could not be used.
    """

    place: np.ndarray
    time: np.ndarray | None = None
    frame: np.ndarray | None = None
    name: tuple[str, ...] = ()
    has_height: bool = True
    num_left_out: int = 0

    def __len__(self) -> int:
        """N, the number of fixes."""
        return len(self.place)


def read_gps_track(path: Path) -> GpsTrack:
    """Return the fixes of a file whose places can be places.

    Raises:
        UserError: it cannot be read, is of none of the known forms, or holds fewer than two usable fixes.
    """
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"alignment.metric.gps {path} cannot be read: {error}") from None
    if text.lstrip().startswith("<"):
        track = _of_gpx(text, path)
    elif SENTENCE.search(text):
        track = _of_nmea(text, path)
    else:
        track = _of_rows(text, path)
    return _usable(track, path)


def _usable(track: GpsTrack, path: Path) -> GpsTrack:
    """Return the track without what is not finite. Raises UserError for places that are none."""
    good = np.isfinite(track.place).all(1)
    if track.time is not None:
        good &= np.isfinite(track.time)
    beyond = good & ((np.abs(track.place[:, 0]) > 90) | (np.abs(track.place[:, 1]) > 180))
    if beyond.any():
        latitude, longitude, _ = track.place[int(beyond.argmax())]
        raise UserError(
            f"{path}: fix {int(beyond.argmax())} has latitude {latitude:g} and longitude {longitude:g}, which is no "
            "place in degrees; name the columns in a heading (time,latitude,longitude,altitude)"
        )
    if good.sum() < 2:
        raise UserError(f"{path} holds {int(good.sum())} usable fixes of {len(track)}; at least 2 are needed")
    return GpsTrack(
        track.place[good],
        None if track.time is None else track.time[good],
        None if track.frame is None else track.frame[good],
        tuple(np.array(track.name, object)[good]) if track.name else (),
        track.has_height,
        track.num_left_out + int((~good).sum()),
    )


def _of_gpx(text: str, path: Path) -> GpsTrack:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{path} declares a document type, which no GPX file does; export the track again")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is no GPX file: {error}") from None
    for kind in ("trkpt", "rtept", "wpt"):
        if points := list(root.iterfind(f".//{{*}}{kind}")):
            break
    else:
        raise UserError(f"{path} holds no track point (trkpt); is it a GPX file?")
    places, times, has_height = [], [], True
    for point in points:
        height = point.findtext("{*}ele")
        has_height &= height is not None
        places.append([_number(word) for word in (point.get("lat"), point.get("lon"), height or "0")])
        times.append(_time(point.findtext("{*}time") or "nan"))
    time = None if np.isnan(times).all() else np.array(times)
    return _without_mixed_heights(np.array(places), has_height=has_height, time=time)


def _of_nmea(text: str, path: Path) -> GpsTrack:
    """GGA sentences, dated by RMC; RMC alone where there is no GGA (then without heights)."""
    num_bad, days_passed, last, first_day = 0, 0, float("nan"), 0.0
    fixes: dict[str, list[list[float]]] = {"GGA": [], "RMC": []}
    for match in SENTENCE.finditer(text):
        kind, fields = match["kind"], match["body"].split(",")
        seconds = _seconds_of_day(fields[1])
        is_damaged = match["sum"] is not None and _checksum(match["body"]) != int(match["sum"], 16)
        if is_damaged or len(fields) < 10 or not np.isfinite(seconds):
            num_bad += 1
            continue
        days_passed += int(seconds < last - SECONDS_PER_DAY / 2)
        last = seconds
        if kind == "RMC" and first_day == 0 and np.isfinite(day := _day(fields[9])):
            first_day = day - days_passed * SECONDS_PER_DAY
        if (kind == "RMC" and fields[2] != "A") or (kind == "GGA" and fields[6] in ("", "0")):
            num_bad += 1
            continue
        start = 3 if kind == "RMC" else 2
        place = [_degrees(*fields[start : start + 2]), _degrees(*fields[start + 2 : start + 4])]
        height = _number(fields[9]) if kind == "GGA" else 0.0
        fixes[kind].append([days_passed * SECONDS_PER_DAY + seconds, *place, height])
    kind = "GGA" if fixes["GGA"] else "RMC"
    if not fixes[kind]:
        raise UserError(f"{path} holds no GGA or RMC sentence with a fix ({num_bad} without)")
    rows = np.array(fixes[kind])
    return GpsTrack(rows[:, 1:], first_day + rows[:, 0], has_height=kind == "GGA", num_left_out=num_bad)


def _of_rows(text: str, path: Path) -> GpsTrack:
    """A table with a heading, or numbers alone."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise UserError(f"{path} holds no fixes")
    # Blanks stand between columns only where nothing else does: names may hold some.
    separator = re.compile(r"\s*[,;\t]\s*" if re.search(r"[,;\t]", lines[0]) else r"\s+")
    rows = [separator.split(line) for line in lines]
    if all(map(is_number, rows[0])):
        return _bare_rows(rows, path)
    heading = _heading(rows[0])
    if heading is None:
        raise UserError(
            f"{path}: '{lines[0][:60]}' names no columns lat(itude) and lon(gitude); name them in the first line, or "
            "give rows `time lat lon alt`"
        )
    return _named_rows(rows[1:], heading, path)


def _bare_rows(rows: Sequence[list[str]], path: Path) -> GpsTrack:
    width = len(rows[0])
    if width not in (2, 3, 4, 8):
        raise UserError(
            f"{path}: '{' '.join(rows[0])[:60]}' has {width} numbers; give `time lat lon alt`, `lat lon alt` or a "
            "heading that names the columns"
        )
    numbers = np.array([_row_of_numbers(row, width, path) for row in rows])
    time = _in_seconds(numbers[:, 0]) if width in (4, 8) else None
    first = 0 if time is None else 1
    if width == 2:
        numbers = np.column_stack([numbers, np.zeros(len(numbers))])
    return GpsTrack(numbers[:, first : first + 3], time, has_height=width > 2)


def _named_rows(rows: Sequence[list[str]], heading: dict[str, int], path: Path) -> GpsTrack:
    width = max(heading.values()) + 1
    short = next((row for row in rows if len(row) < width), None)
    if short is not None:
        raise UserError(f"{path}: '{' '.join(short)[:60]}' has fewer columns than the heading names")
    if not rows:
        raise UserError(f"{path} holds a heading and no fixes")

    def numbers(column: str) -> np.ndarray:
        return np.array([_number(row[heading[column]]) for row in rows])

    heights = numbers("alt") if "alt" in heading else np.zeros(len(rows))
    has_height = "alt" in heading and bool(np.isfinite(heights).all())
    place = np.stack([numbers("lat"), numbers("lon"), heights if has_height else np.zeros(len(rows))], -1)
    if "time" in heading:
        words = [row[heading["time"]] for row in rows]
        is_count = all(is_number(word) for word in words)
        time = (
            _in_seconds(np.array(list(map(float, words)))) if is_count else np.array(list(map(_time, words)))
        )
        return GpsTrack(place, time, has_height=has_height)
    if "name" in heading or ("frame" in heading and not is_number(rows[0][heading["frame"]])):
        column = heading.get("name", heading.get("frame", 0))
        return GpsTrack(place, name=tuple(row[column] for row in rows), has_height=has_height)
    if "frame" in heading:
        frames = numbers("frame")
        if not (np.isfinite(frames).all() and (frames == np.rint(frames)).all()):
            raise UserError(f"{path}: the column of frames holds something else than whole numbers")
        return GpsTrack(place, frame=frames.astype(np.int64), has_height=has_height)
    return GpsTrack(place, has_height=has_height)


def _heading(words: Sequence[str]) -> dict[str, int] | None:
    """Columns by what they hold; None where latitude and longitude are not among them."""
    found: dict[str, int] = {}
    for place, word in enumerate(words):
        plain = re.sub(r"[^a-z]+", "_", re.sub(r"[\[(].*?[\])]", "", word.lower())).strip("_")
        for column, pattern in COLUMNS.items():
            if column not in found and pattern.fullmatch(plain):
                found[column] = place
                break
    return found if {"lat", "lon"} <= found.keys() else None


def _without_mixed_heights(places: np.ndarray, *, has_height: bool, time: np.ndarray | None) -> GpsTrack:
    if not has_height:
        places = places * [1, 1, 0]
    return GpsTrack(places, time, has_height=has_height)


def _row_of_numbers(row: Sequence[str], width: int, path: Path) -> list[float]:
    if len(row) != width or not all(map(is_number, row)):
        raise UserError(f"{path}: '{' '.join(row)[:60]}' is no row of {width} numbers, as the first is")
    return [float(word) for word in row]


def _number(word: str | None) -> float:
    return float(word) if word is not None and is_number(word) else float("nan")


def _in_seconds(times: np.ndarray) -> np.ndarray:
    """Counts of any unit since 1970 as seconds; smaller ones are seconds already."""
    largest = np.nanmax(np.abs(times), initial=0.0)
    return times * next((unit for limit, unit in UNITS if largest >= limit), 1.0)


def _time(word: str) -> float:
    """ISO 8601 as seconds since 1970, in UTC where no zone is given; not a number where it is none."""
    whole, _, rest = word.strip().replace(" ", "T", 1).partition(".")
    fraction, zone = re.match(r"(\d*)(.*)", rest).groups() if rest else ("", "")  # type: ignore[union-attr]
    try:
        moment = datetime.fromisoformat((whole + zone).replace("Z", "+00:00"))
    except ValueError:
        return _number(word)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp() + float(f"0.{fraction or 0}")


def _checksum(body: str) -> int:
    total = 0
    for character in body:
        total ^= ord(character)
    return total


def _seconds_of_day(word: str) -> float:
    match = re.fullmatch(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)", word)
    return float("nan") if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def _day(word: str) -> float:
    """Ddmmyy as seconds since 1970; not a number where it is no date."""
    try:
        return datetime.strptime(word, "%d%m%y").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return float("nan")


def _degrees(word: str, side: str) -> float:
    """ddmm.mmmm and a letter as degrees."""
    value = _number(word)
    degrees = np.floor(value / 100) + (value % 100) / 60
    return float(-degrees if side in ("S", "W") else degrees)
