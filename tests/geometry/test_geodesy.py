"""Places on the Earth against PROJ."""

import numpy as np
import pyproj
import pytest

from scal3r_train.geometry.geodesy import (
    UtmZone,
    ecef_from_geodetic,
    enu_from_geodetic,
    geodetic_from_ecef,
    geodetic_from_enu,
)

TENTH_OF_A_MILLIMETRE = 1e-4


@pytest.fixture
def places() -> np.ndarray:
    random = np.random.default_rng(0)
    anywhere = np.column_stack(
        [random.uniform(-84, 84, 40), random.uniform(-180, 180, 40), random.uniform(-400, 8800, 40)]
    )
    return np.concatenate([anywhere, [[0, 0, 0], [0, 179.9, 10], [83.9, -179.9, 5], [-33.9, 18.4, 0]]])


def test_ecef_is_that_of_proj(places: np.ndarray) -> None:
    to_ecef = pyproj.Transformer.from_crs(4979, 4978, always_xy=True)
    theirs = np.stack(to_ecef.transform(places[:, 1], places[:, 0], places[:, 2]), -1)
    np.testing.assert_allclose(ecef_from_geodetic(places), theirs, atol=TENTH_OF_A_MILLIMETRE)
    back = geodetic_from_ecef(theirs)
    np.testing.assert_allclose(ecef_from_geodetic(back), theirs, atol=TENTH_OF_A_MILLIMETRE)
    np.testing.assert_allclose(back[:, 2], places[:, 2], atol=TENTH_OF_A_MILLIMETRE)


def test_the_tangent_frame_is_that_of_proj(places: np.ndarray) -> None:
    for origin in places[::8]:
        latitude, longitude, height = origin.tolist()
        near = origin + np.random.default_rng(1).normal(size=(5, 3)) * [0.01, 0.01, 100]
        pipeline = (
            "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84 "
            "+step +proj=topocentric +ellps=WGS84 "
            f"+lat_0={latitude!r} +lon_0={longitude!r} +h_0={height!r}"
        )
        theirs = pyproj.Transformer.from_pipeline(pipeline).transform(near[:, 1], near[:, 0], near[:, 2])
        ours = enu_from_geodetic(near, origin)
        np.testing.assert_allclose(ours, np.stack(theirs, -1), atol=TENTH_OF_A_MILLIMETRE)
        there = ecef_from_geodetic(geodetic_from_enu(ours, origin))
        np.testing.assert_allclose(there, ecef_from_geodetic(near), atol=TENTH_OF_A_MILLIMETRE)


def test_utm_is_that_of_proj_also_beyond_its_zone(places: np.ndarray) -> None:
    for place in places[::5]:
        zone = UtmZone.of(place)
        near = place + np.array([[0, 0, 0], [-0.05, 2, 0], [0.02, -3, 0]])
        to_utm = pyproj.Transformer.from_crs(4979, zone.epsg, always_xy=True)
        theirs = np.stack(to_utm.transform(near[:, 1], near[:, 0], near[:, 2]), -1)
        np.testing.assert_allclose(zone.from_geodetic(near), theirs, atol=TENTH_OF_A_MILLIMETRE)


def test_zones_are_numbered_as_on_the_map_and_named_as_in_the_registry() -> None:
    wanted = {
        (60.4, 5.3): 32,
        (78.2, 15.6): 33,
        (50.8, 6.1): 32,
        (-33.9, 18.4): 34,
        (0.0, -180.0): 1,
        (10, 180): 1,
    }
    for (latitude, longitude), number in wanted.items():
        assert UtmZone.of(np.array([latitude, longitude, 0])).number == number
    for zone in (UtmZone(32, is_north=True), UtmZone(34, is_north=False)):
        system = pyproj.CRS.from_wkt(zone.wkt())
        assert system.to_epsg() == zone.epsg
        assert system.name == zone.name == pyproj.CRS.from_epsg(zone.epsg).name
