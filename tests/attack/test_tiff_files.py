"""Files named .tif that are something else, and what lies beside a TIFF: no address is asked, no other file is read."""

import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.segmenter import Segmentation, geotiff, large_tiff, tiff_reading

rasterio = pytest.importorskip("rasterio")

SIZE = (16, 24)
RESULT = Segmentation(np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.int32), ("a", "b"), np.ones(SIZE, np.float32))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server in another process (GDAL holds this one's interpreter): its address, and what it was asked."""
    folder = tmp_path_factory.mktemp("server")
    script = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); "
    script += "print(s.server_port, flush=True); s.serve_forever()"
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=file, text=True
        )
    port = int(process.stdout.readline())
    yield f"http://127.0.0.1:{port}", lambda: time.sleep(0.2) or log.read_text()
    process.kill()
    process.wait()
    process.stdout.close()


def write(path, value=7, size=SIZE, bands=3, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = {"driver": "GTiff", "dtype": "uint8", "count": bands, "height": size[0], "width": size[1]} | options
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.full((bands, *size), value, profile["dtype"]))
    return path


def vrt(source, size=SIZE, kind="SimpleSource"):
    band = f'<SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand>'
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"><{kind}>{band}</{kind}></VRTRasterBand>'
        for number in (1, 2, 3)
    )
    return f'<VRTDataset rasterXSize="{size[1]}" rasterYSize="{size[0]}">{bands}</VRTDataset>'


def raw_vrt(source):
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}" subClass="VRTRawRasterBand"><SourceFilename>{source}'
        f"</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>{SIZE[1]}</LineOffset>"
        "</VRTRasterBand>"
        for number in (1, 2, 3)
    )
    return f'<VRTDataset rasterXSize="{SIZE[1]}" rasterYSize="{SIZE[0]}">{bands}</VRTDataset>'


def disguised(kind, folder, address):
    """The content of a file that GDAL opens by its content, whatever its name is."""
    secret = folder / "secret.txt"
    secret.write_text("s" * 10_000)
    other = write(folder / "other.tif", 9)
    return {
        "VRT of an address": vrt(f"/vsicurl/{address}/x.tif"),
        "VRT of a streamed address": vrt(f"/vsicurl_streaming/{address}/x.tif"),
        "VRT of a bucket": vrt("/vsis3/bucket/x.tif"),
        "VRT of a file": vrt(other),
        "VRT of a text file": raw_vrt(secret),
        "VRT of an archive": vrt(f"/vsizip//vsicurl/{address}/x.zip/x.tif"),
        "WMS": f'<GDAL_WMS><Service name="TMS"><ServerUrl>{address}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
        "<DataWindow><UpperLeftX>-1</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>-1"
        f"</LowerRightY><SizeX>{SIZE[1]}</SizeX><SizeY>{SIZE[0]}</SizeY></DataWindow><Projection>EPSG:4326"
        "</Projection><BandsCount>3</BandsCount></GDAL_WMS>",
        "WMTS": f"<GDAL_WMTS><GetCapabilitiesUrl>{address}/caps.xml</GetCapabilitiesUrl></GDAL_WMTS>",
        "WCS": f"<WCS_GDAL><ServiceURL>{address}/?</ServiceURL><CoverageName>x</CoverageName></WCS_GDAL>",
        "STAC": json.dumps(
            {"type": "Feature", "stac_version": "1.0.0", "id": "x", "assets": {"a": {"href": f"{address}/x.tif"}}}
        ),
        "index of tiles": f"<GDALTileIndexDataset><IndexDataset>{address}/x.gpkg</IndexDataset></GDALTileIndexDataset>",
        "ESRI grid": "ncols 2\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 1\n1 2\n3 4\n",
        "PNM": "P6 2 2 255\n" + "x" * 12,
        "ENVI": "ENVI\nsamples = 24\nlines = 16\nbands = 1\ndata type = 1\nheader offset = 0\n",
        "MRF": "<MRF_META><CachedSource><Source>/vsicurl/" + address + "/x.tif</Source></CachedSource><Raster><Size x="
        '"24" y="16" c="3"/></Raster></MRF_META>',
    }[kind]


KINDS = ["VRT of an address", "VRT of a streamed address", "VRT of a bucket", "VRT of a file", "VRT of a text file"]
KINDS += ["VRT of an archive", "WMS", "WMTS", "WCS", "STAC", "index of tiles", "ESRI grid", "PNM", "ENVI", "MRF"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_tiff_is_refused_under_its_name(tmp_path, server, kind):
    address, asked = server
    path = tmp_path / "a.tif"
    path.write_text(disguised(kind, tmp_path, address))
    before = asked()
    reading = [
        lambda: tiff_reading.tiff_size(path),
        lambda: geotiff.read_geotiff(path),
        lambda: geotiff.save_geotiff(RESULT, tmp_path / "labels.tif", path),
        lambda: large_tiff.segment_tiff(None, path, tmp_path / "labels.tif", ["a"], NativeWindows()),
    ]
    for read in reading:
        with pytest.raises(ValueError, match=r"a\.tif is not a TIFF that can be read"):
            read()
    assert asked() == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.tif", "other.tif", "secret.txt"]


BESIDE = {
    ".ovr": lambda address, folder: vrt(f"/vsicurl/{address}/overview.tif", (8, 12)),
    ".OVR": lambda address, folder: vrt(f"/vsicurl/{address}/overview.tif", (8, 12)),
    ".aux.xml": lambda address, folder: (
        '<PAMDataset><SRS>EPSG:32633</SRS><Metadata domain="OVERVIEWS"><MDI key="'
        f'OVERVIEW_FILE">/vsicurl/{address}/overview.tif</MDI></Metadata></PAMDataset>'
    ),
    ".aux": lambda address, folder: vrt(f"/vsicurl/{address}/aux.tif"),
    ".ovr.msk": lambda address, folder: vrt(f"/vsicurl/{address}/mask.tif"),
}


@pytest.mark.parametrize("suffix", BESIDE)
def test_files_beside_a_tiff_change_no_pixel_and_ask_no_address(tmp_path, server, suffix):
    address, asked = server
    path = write(tmp_path / "a.tif")
    (tmp_path / f"a.tif{suffix}").write_text(BESIDE[suffix](address, tmp_path))
    before = asked()
    with tiff_reading.open_tiff(path) as raster:
        assert (raster.read(0, 0, *SIZE) == 7).all()
        assert raster.has_data(0, 0, *SIZE).all()
        assert raster.dataset.overviews(1) == []
        found = raster.place()
    assert found["crs"] == ("EPSG:32633" if suffix == ".aux.xml" else None)
    geotiff.save_geotiff(RESULT, tmp_path / "labels.tif", path)
    assert asked() == before


def test_a_mask_beside_a_tiff_is_read_as_a_tiff_or_not_at_all(tmp_path, server):
    address, asked = server
    path, mask = write(tmp_path / "a.tif"), tmp_path / "a.tif.msk"
    before = asked()
    for text in (vrt(f"/vsicurl/{address}/mask.tif"), vrt(write(tmp_path / "other.tif", 0)), "nothing"):
        mask.write_text(text)
        with pytest.raises(ValueError, match=r"a\.tif is not a TIFF that can be read \(.*a\.tif\.msk"):
            tiff_reading.tiff_size(path)
    assert asked() == before
    mask.unlink()
    write(mask, 255, (8, 8), bands=1)
    with pytest.raises(ValueError, match=r"24 x 16 pixels, and its mask .*msk 8 x 8; remove the mask, or store it"):
        tiff_reading.tiff_size(path)


def test_a_mask_of_gdals_beside_a_tiff_counts(tmp_path):
    expected = np.zeros(SIZE, bool)
    expected[3:, :5] = True
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        path = write(tmp_path / "a.tif", crs="EPSG:32633", transform=rasterio.Affine(1, 0, 3, 0, -1, 5))
        with rasterio.open(path, "r+") as file:
            file.write_mask(expected)
    assert (tmp_path / "a.tif.msk").is_file()
    with tiff_reading.open_tiff(path) as raster:
        np.testing.assert_array_equal(raster.has_data(0, 0, *SIZE), expected)
        np.testing.assert_array_equal(raster.has_data(2, 4, 3, 4), expected[2:5, 4:8])


@pytest.mark.parametrize("suffix", ["tfw", "TFW", "tifw", "wld"])
def test_georeferencing_beside_a_tiff_is_kept(tmp_path, suffix):
    path = write(tmp_path / "a.tif")
    (tmp_path / f"a.{suffix}").write_text("2\n0\n0\n-2\n101\n199\n")
    with tiff_reading.open_tiff(path) as raster:
        assert raster.place()["transform"] == rasterio.Affine(2, 0, 100, 0, -2, 200)


def test_no_data_beside_a_tiff_is_not_passed_over_in_silence(tmp_path):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    with pytest.raises(
        ValueError, match=r"no data in .*a\.tif is in a file beside it \(a\.tif\.aux\.xml\).*rio edit-info"
    ):
        geotiff.save_geotiff(RESULT, tmp_path / "labels.tif", path)


def test_names_that_mean_something_to_gdal_are_names_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("other.tif", 9, (5, 5))
    for name in ("GTIFF_DIR:1:other.tif", "NETCDF:other.tif", "vrt:other.tif", "s3:x.tif"):
        os.replace(write(tmp_path / "a.tif"), name)
        assert tiff_reading.tiff_size(name) == SIZE
    for name in ("/vsicurl/http://127.0.0.1/a.tif", "http://127.0.0.1/a.tif", "zip://a.zip!a.tif", "WMS:http://x"):
        with pytest.raises(FileNotFoundError, match="no image at"):
            tiff_reading.tiff_size(name)


def test_tiffs_of_every_arrangement_are_read(tmp_path):
    arranged = [
        {"driver": "COG"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"interleave": "band"},
        {"compress": "deflate"},
        {"compress": "jpeg", "photometric": "ycbcr"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
    ]
    for number, options in enumerate(arranged):
        path = write(tmp_path / f"{number}.tif", **options)
        with tiff_reading.open_tiff(path) as raster:
            assert (raster.read(0, 0, *SIZE) == 7).all()


def test_blocks_of_many_bands_are_counted_with_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_reading, "MOST_BLOCK_BYTES", 16 * 24 * 3 * 2)
    stripes = {"blockysize": 16}
    assert tiff_reading.tiff_size(write(tmp_path / "a.tif", dtype="uint16", **stripes)) == SIZE
    assert tiff_reading.tiff_size(write(tmp_path / "b.tif", bands=40, interleave="band", **stripes)) == SIZE
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    path = write(tmp_path / "c.tif", bands=40, interleave="pixel", **tiles)
    with pytest.raises(ValueError, match="in blocks of 16 x 16, each of which must be decoded as a whole"):
        tiff_reading.tiff_size(path)


def test_control_points_without_a_reference_system_are_kept(tmp_path):
    points = [rasterio.control.GroundControlPoint(row, col, col / 7, row / 3) for row, col in ((0, 0), (0, 9), (9, 0))]
    path = write(tmp_path / "a.tif", gcps=points, crs=rasterio.crs.CRS())
    geotiff.save_geotiff(RESULT, tmp_path / "labels.tif", path)
    with rasterio.open(tmp_path / "labels.tif") as file:
        found, crs = file.gcps
    assert [(point.row, point.col, point.x, point.y) for point in found] == [
        (point.row, point.col, point.x, point.y) for point in points
    ]
    assert crs is None


@pytest.mark.parametrize("tag", ["", "[", "7", "[1, 2]", '{"a": 1}', "[" * 100_000, "null"])
@pytest.mark.parametrize("nodata", [255, None])
def test_labels_whose_names_are_damaged_are_refused(tmp_path, tag, nodata):
    path = write(tmp_path / "a.tif", bands=1, nodata=nodata, transform=rasterio.Affine(1, 0, 3, 0, -1, 5))
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, class_names=tag)
    with pytest.raises(ValueError, match="does not name its classes; it was not written by this program"):
        geotiff.read_geotiff(path)
