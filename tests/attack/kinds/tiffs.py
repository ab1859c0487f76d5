"""TIFF files as native windows read them, changed, with other files beside them, and what is no TIFF at all."""

import pathlib
import warnings

import numpy as np

from ahs_seg_jax.segmenter import tiff_reading
from tests.attack import mutations
from tests.attack.attacking import Kind

VRT = """<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>{0}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
OTHERS = (
    *(VRT.format("/etc/passwd"), VRT.format("/vsicurl/http://127.0.0.1:9/x.tif"), "http://127.0.0.1:9/x.tif", ""),
    '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>',
    *("GTIFF_DIR:1:a.tif", "ncols 3\nnrows 3\nxllcorner 0\nyllcorner 0\ncellsize 1\n1 2 3\n4 5 6\n7 8 9\n"),
)


class Attack(Kind):
    mistakes = (ValueError,)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        warnings.simplefilter("ignore")
        from tests.support import tiffs

        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (70, 90, 3), np.uint8)
        place = {"transform": tiffs.PLACE, "crs": "EPSG:32633"}
        kinds = (
            *((image, {}), (image, {"tiled": True, "blockxsize": 32, "blockysize": 16, **place})),
            *((image, {"compress": "lzw"}), (image, {"compress": "deflate", "interleave": "band", "nodata": 0})),
            *((image.astype(np.uint16) * 257, {"compress": "zstd", "bigtiff": "YES"}), (image[:, :, :1], place)),
            (np.dstack([image] * 4), {"interleave": "pixel"}),
        )
        self._seeds = [
            tiffs.write(folder / "seed.tif", pixels, **options).read_bytes()  # written anew for each
            for pixels, options in kinds
        ]
        for path in folder.iterdir():
            path.unlink()

    def run(self, rng):
        self._path = self.folder / "a.tif"
        data = mutations.pick(rng, self._seeds)
        data = mutations.pick(rng, OTHERS).encode() if rng.random() < 0.05 else mutations.change_bytes(data, rng, 400)
        self._path.write_bytes(data)
        if rng.random() < 0.15:
            beside = self.folder / f"a.tif{mutations.pick(rng, ('.msk', '.aux.xml', '.ovr', 'w'))}"
            other = mutations.pick(rng, (*OTHERS, "1\n0\n0\n-1\n5\n5\n")).encode()
            beside.write_bytes(
                other if rng.random() < 0.5 else mutations.change_bytes(mutations.pick(rng, self._seeds), rng)
            )
        try:
            with tiff_reading.open_tiff(self._path) as raster:
                height, width = raster.size
                for y, x in ((0, 0), (max(0, height - 512), max(0, width - 512))):
                    size = min(512, height), min(512, width)
                    assert raster.read(y, x, *size).shape == (*size, 3)
                    assert raster.has_data(y, x, *size).shape == size
                raster.place()
        finally:
            for path in self.folder.iterdir():
                path.unlink()

    def is_clear(self, said):
        return self._path.name in said
