"""Polygons in a raster's coordinates: read back by GDAL's own readers, with areas in square metres."""

import json

import numpy as np
import pytest

from ahs_seg_jax.annotations import polygons, vector

rasterio = pytest.importorskip("rasterio")

NAMES = ("roof", "road, street", "вода")
TURNED = rasterio.Affine(0.5, 0.1, 411_000.0, -0.1, -0.5, 5_660_000.0)


def labels(size=(13, 17)):
    found = np.zeros(size, np.int32)
    found[2:9, 3:11] = 1
    found[4:6, 5:8] = 0  # a hole
    found[11:, :2] = -1
    found[0, 16] = 2
    return found


def place(crs="EPSG:32633", transform=TURNED):
    return vector.Place(tuple(transform)[:6], rasterio.crs.CRS.from_user_input(crs))


def test_geojson_is_drawn_back_onto_the_raster(tmp_path):
    vector.write_geojson(tmp_path / "a.geojson", polygons.polygons(labels()), NAMES, place())
    found = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    shapes = [(feature["geometry"], feature["properties"]["index"]) for feature in found["features"]]
    drawn = rasterio.features.rasterize(shapes, (13, 17), fill=255, transform=TURNED)
    np.testing.assert_array_equal(drawn.astype(np.int8), labels())
    street = next(f["properties"] for f in found["features"] if f["properties"]["name"] == "road, street")
    assert street == {"name": "road, street", "index": 1, "pixels": 50, "area_m2": 50 * 0.24}


def test_square_metres_only_where_they_are_known(tmp_path):
    feet = place("EPSG:2227", rasterio.Affine(2, 0, 6_000_000, 0, -2, 2_000_000))  # US survey feet
    assert feet.square_metres == pytest.approx(4 * 0.3048006096**2)
    assert place("EPSG:4326").square_metres is None
    assert vector.Place().square_metres is None
    vector.write_geojson(tmp_path / "a.geojson", polygons.polygons(labels()), NAMES, vector.Place())
    found = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    assert "crs" not in found
    assert {tuple(feature["properties"]) for feature in found["features"]} == {("name", "index", "pixels")}
    water = next(f for f in found["features"] if f["properties"]["index"] == 2)
    assert sorted(map(tuple, water["geometry"]["coordinates"][0][:4])) == [(16, 0), (16, 1), (17, 0), (17, 1)]


def test_what_has_no_place_is_explained(tmp_path):
    with pytest.raises(ValueError, match=r"has control points but no transform.*gdalwarp"):
        vector.Place.of({"gcps": [], "crs": None})
    local = vector.Place(tuple(TURNED)[:6], rasterio.crs.CRS.from_string("+proj=laea +lat_0=50 +lon_0=7.3"))
    with pytest.raises(ValueError, match=r"no EPSG number, which GeoJSON needs; write gpkg"):
        vector.write_geojson(tmp_path / "a.geojson", [], NAMES, local)


@pytest.mark.parametrize("form", ["geojson", "gpkg"])
def test_gdal_s_own_reader_opens_both(tmp_path, form, monkeypatch):
    pyogrio = pytest.importorskip("pyogrio")
    monkeypatch.setattr(vector, "AT_ONCE", 2)
    write = {"geojson": vector.write_geojson, "gpkg": vector.write_geopackage}[form]
    path = tmp_path / f"a.{form}"
    write(path, polygons.polygons(labels()), NAMES, place())
    about = pyogrio.read_info(path)
    assert (about["crs"], about["features"], about["geometry_type"]) == ("EPSG:32633", 4, "Polygon")
    assert list(about["fields"]) == ["name", "index", "pixels", "area_m2"]
    fields = dict(zip(about["fields"], pyogrio.raw.read(path)[3], strict=True))
    assert sorted(fields["area_m2"]) == pytest.approx(sorted(0.24 * fields["pixels"]))
    assert sum(fields["pixels"]) == (labels() >= 0).sum()
    write(tmp_path / f"none.{form}", [], NAMES, place())
    assert pyogrio.read_info(tmp_path / f"none.{form}")["features"] == 0


@pytest.mark.parametrize("form", ["geojson", "gpkg"])
def test_geopandas_measures_the_same_areas(tmp_path, form):
    geopandas = pytest.importorskip("geopandas")
    write = {"geojson": vector.write_geojson, "gpkg": vector.write_geopackage}[form]
    write(tmp_path / f"a.{form}", polygons.polygons(labels()), NAMES, place())
    table = geopandas.read_file(tmp_path / f"a.{form}")
    assert table.crs.to_epsg() == 32633
    assert table.geometry.is_valid.all()
    np.testing.assert_allclose(table.geometry.area, table["area_m2"], rtol=1e-6)


def test_without_pyogrio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyogrio.raw", None)
    with pytest.raises(ImportError, match=r"GeoPackage needs pyogrio, .*pip install 'ahs_seg_jax\[geo\]'"):
        vector.require_pyogrio()
