"""Places on the Earth: latitude and longitude, a local frame in metres, and UTM, on the ellipsoid WGS84.

Geodetic coordinates are rows (latitude deg, longitude deg, height m above the ellipsoid). ECEF is Earth-centred: x to
(0, 0), z to the north pole. ENU is a tangent frame at an origin: x east, y north, z up, metres. UTM is (easting,
northing, height) in one of 60 zones; on the southern half northings count from 10,000 km. All float64 NumPy, closed
forms but for one fixed-point iteration, exact to well below a millimetre in a zone and its neighbours (tested against
PROJ). Sources: Hofmann-Wellenhof et al. 2008 (ECEF, ENU); Karney 2011, "Transverse Mercator with an accuracy of a few
nanometers", whose series in the third flattening is taken to the fourth order. Shapes: N places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEMI_MAJOR_M, FLATTENING = 6378137.0, 1 / 298.257223563
ECCENTRICITY2 = FLATTENING * (2 - FLATTENING)
THIRD_FLATTENING = FLATTENING / (2 - FLATTENING)
UTM_SCALE, FALSE_EASTING_M, FALSE_NORTHING_M = 0.9996, 500_000.0, 10_000_000.0
NUM_ITERATIONS = 8  # of the latitude from ECEF; each gains more than two digits near the surface


def ecef_from_geodetic(places: np.ndarray) -> np.ndarray:
    """Return ECEF coordinates [N, 3] in metres of geodetic ones [N, 3]."""
    latitude, longitude, height = np.radians(places[:, 0]), np.radians(places[:, 1]), places[:, 2]
    normal = SEMI_MAJOR_M / np.sqrt(1 - ECCENTRICITY2 * np.sin(latitude) ** 2)
    across = (normal + height) * np.cos(latitude)
    up = (normal * (1 - ECCENTRICITY2) + height) * np.sin(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), up], -1)


def geodetic_from_ecef(points: np.ndarray) -> np.ndarray:
    """Return geodetic coordinates [N, 3] of ECEF ones [N, 3] in metres, near the Earth's surface."""
    across = np.hypot(points[:, 0], points[:, 1])
    latitude = np.arctan2(points[:, 2], across * (1 - ECCENTRICITY2))
    for _ in range(NUM_ITERATIONS):
        sine = np.sin(latitude)
        normal = SEMI_MAJOR_M / np.sqrt(1 - ECCENTRICITY2 * sine**2)
        latitude = np.arctan2(points[:, 2] + ECCENTRICITY2 * normal * sine, across)
    sine, cosine = np.sin(latitude), np.cos(latitude)
    # Along the normal: exact at the equator and at the poles alike.
    height = across * cosine + points[:, 2] * sine - SEMI_MAJOR_M * np.sqrt(1 - ECCENTRICITY2 * sine**2)
    longitude = np.arctan2(points[:, 1], points[:, 0])
    return np.stack([np.degrees(latitude), np.degrees(longitude), height], -1)


def enu_from_geodetic(places: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return places [N, 3] in the tangent frame at `origin` [3] (geodetic), in metres."""
    return (ecef_from_geodetic(places) - ecef_from_geodetic(origin[None])) @ _ecef_from_enu(origin)


def geodetic_from_enu(points: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return geodetic coordinates [N, 3] of points [N, 3] in the tangent frame at `origin` [3]; the inverse."""
    return geodetic_from_ecef(points @ _ecef_from_enu(origin).T + ecef_from_geodetic(origin[None]))


def _ecef_from_enu(origin: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] whose columns are east, north and up."""
    latitude, longitude = np.radians(origin[:2])
    sin_lat, cos_lat, sin_lon, cos_lon = (
        np.sin(latitude),
        np.cos(latitude),
        np.sin(longitude),
        np.cos(longitude),
    )
    return np.array(
        [
            [-sin_lon, -sin_lat * cos_lon, cos_lat * cos_lon],
            [cos_lon, -sin_lat * sin_lon, cos_lat * sin_lon],
            [0.0, cos_lat, sin_lat],
        ]
    )


@dataclass(frozen=True)
class UtmZone:
    """A zone of UTM on one half of the Earth.

    Attributes:
        number: 1 to 60.
        is_north: whether northings count from the equator.
    """

    number: int
    is_north: bool

    @staticmethod
    def of(origin: np.ndarray) -> UtmZone:
        """Return the zone of a place [3] (geodetic), with the exceptions of Norway and Svalbard."""
        latitude, longitude = float(origin[0]), (float(origin[1]) + 180) % 360 - 180
        number = min(int((longitude + 180) // 6) + 1, 60)
        if 56 <= latitude < 64 and 3 <= longitude < 12:
            number = 32
        if 72 <= latitude <= 84 and 0 <= longitude < 42:
            number = 31 + 2 * int((longitude + 3) // 12)
        return UtmZone(number, latitude >= 0)

    @property
    def epsg(self) -> int:
        """The number of this coordinate system in the EPSG's registry."""
        return (32600 if self.is_north else 32700) + self.number

    @property
    def name(self) -> str:
        """As the EPSG calls it."""
        return f"WGS 84 / UTM zone {self.number}{'N' if self.is_north else 'S'}"

    @property
    def central_meridian_deg(self) -> int:
        """Longitude of the zone's middle."""
        return 6 * self.number - 183

    def from_geodetic(self, places: np.ndarray) -> np.ndarray:
        """Return (easting, northing, height) [N, 3] in metres of geodetic coordinates [N, 3]."""
        latitude = np.radians(places[:, 0])
        longitude = np.radians((places[:, 1] - self.central_meridian_deg + 180) % 360 - 180)
        eccentricity = np.sqrt(ECCENTRICITY2)
        tangent = np.tan(latitude)
        shift = np.sinh(eccentricity * np.arctanh(eccentricity * tangent / np.sqrt(1 + tangent**2)))
        conformal = tangent * np.sqrt(1 + shift**2) - shift * np.sqrt(1 + tangent**2)
        north = np.arctan2(conformal, np.cos(longitude))
        east = np.arcsinh(np.sin(longitude) / np.hypot(conformal, np.cos(longitude)))
        sums_north, sums_east = north.copy(), east.copy()
        for order, factor in enumerate(_ALPHA, 1):
            sums_north += factor * np.sin(2 * order * north) * np.cosh(2 * order * east)
            sums_east += factor * np.cos(2 * order * north) * np.sinh(2 * order * east)
        easting = FALSE_EASTING_M + UTM_SCALE * _RECTIFYING_RADIUS_M * sums_east
        northing = (
            0.0 if self.is_north else FALSE_NORTHING_M
        ) + UTM_SCALE * _RECTIFYING_RADIUS_M * sums_north
        return np.stack([easting, northing, places[:, 2]], -1)

    def wkt(self) -> str:
        """Return the system in the "well-known text" of OGC 01-009, as LAS 1.4 and E57 want it."""
        return (
            f'PROJCS["{self.name}",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
            'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
            'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]],'
            'PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
            f'PARAMETER["central_meridian",{self.central_meridian_deg}],PARAMETER["scale_factor",0.9996],'
            f'PARAMETER["false_easting",500000],PARAMETER["false_northing",{0 if self.is_north else 10000000}],'
            'UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],AXIS["Northing",NORTH],'
            f'AUTHORITY["EPSG","{self.epsg}"]]'
        )


_N = THIRD_FLATTENING
_RECTIFYING_RADIUS_M = SEMI_MAJOR_M / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
_ALPHA = (  # Karney 2011, equation 35, orders 1 to 4
    _N / 2 - 2 * _N**2 / 3 + 5 * _N**3 / 16 + 41 * _N**4 / 180,
    13 * _N**2 / 48 - 3 * _N**3 / 5 + 557 * _N**4 / 1440,
    61 * _N**3 / 240 - 103 * _N**4 / 140,
    49561 * _N**4 / 161280,
)
