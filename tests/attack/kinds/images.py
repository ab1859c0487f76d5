"""Images of every format that Pillow writes, changed, under any name."""

import io
import pathlib
import warnings

import numpy as np
from PIL import Image

from ahs_seg_jax.data import folder, images
from ahs_seg_jax.data.open_image import image_size, open_image
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.pictures import label_files
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent

SEEDS = (
    *(("JPEG", "RGB", {}), ("JPEG", "CMYK", {"progressive": True}), ("JPEG", "L", {}), ("MPO", "RGB", {})),
    *(("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {"transparency": 3}), ("PNG", "1", {}), ("PNG", "LA", {})),
    *(("WEBP", "RGB", {"lossless": True}), ("WEBP", "RGBA", {"quality": 50}), ("WEBP", "RGB", {"quality": 50})),
    *(("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "L", {"compression": "packbits"})),
    *(("TIFF", "RGBA", {"compression": "tiff_deflate"}), ("TIFF", "1", {"compression": "group4"})),
    *(("TIFF", "CMYK", {"compression": "jpeg"}), ("TIFF", "P", {}), ("BMP", "RGB", {}), ("BMP", "P", {})),
    *(("BMP", "1", {}), ("GIF", "P", {}), ("GIF", "P", {"transparency": 2}), ("ICO", "RGBA", {}), ("ICNS", "RGBA", {})),
    *(("PPM", "RGB", {}), ("TGA", "RGBA", {}), ("DDS", "RGBA", {}), ("JPEG2000", "RGB", {}), ("PCX", "P", {})),
    *(("SGI", "RGB", {}), ("AVIF", "RGB", {}), ("IM", "RGB", {}), ("XBM", "1", {})),
)
NAMES = ("a.png", "a.jpg", "a.tif", "a.webp", "a.bmp", "a b\u00e9.png", "a.PNG", "a")
MOST = 4 * 10**6  # pixels
KNOWN = (
    *("; copy or download it again", "; save ", "is not an image that can be read", "the limit is", "has no pixels"),
    *("cannot be read", "is no index mask", "say which values become black and white"),
)


class Attack(Kind):
    mistakes = (ValueError, CorruptExample)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        Image.init()
        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        noise = Image.fromarray(rng.integers(0, 256, (37, 41, 4), np.uint8))
        self._seeds = []
        for kind, mode, options in SEEDS:
            if kind in Image.SAVE:
                stream = io.BytesIO()
                exif = Image.Exif()
                exif[0x0112] = 6
                more = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") and mode == "RGB" else {}
                noise.resize((32, 32) if kind in ("ICO", "ICNS") else noise.size).convert(mode).save(
                    stream, kind, **options, **more
                )
                self._seeds.append((kind, stream.getvalue()))
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 65536, (37, 41), np.uint16)).save(stream, "PNG")
        self._seeds.append(("PNG", stream.getvalue()))

    def run(self, rng):
        kind, data = mutations.pick(rng, self._seeds)
        if kind == "PNG" and rng.random() < 0.5:
            data = mutations.change_png(data, rng)
        elif rng.random() < 0.1:
            other = mutations.pick(rng, self._seeds)[1]
            cut = int(rng.integers(1, len(data)))
            data = data[:cut] + other[int(rng.integers(len(other))) :]
        else:
            data = mutations.change_bytes(data, rng)
        path = self.folder / mutations.pick(rng, NAMES)
        path.write_bytes(data)
        try:
            self._try(path)
        finally:
            path.unlink()

    def _try(self, path):
        self._path = path
        failure = size = None
        try:
            size = image_size(path)
        except ValueError as error:
            failure = error
        for read in (images.read_image, images.image_size, label_files.read_mask, label_files.mask_size):
            try:
                folder.read_or_corrupt(read, path)
            except CorruptExample as error:
                if not self.is_clear(str(error)):
                    raise
        pixels = open_image(path, MOST)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise Silent(f"pixels {pixels.dtype} {pixels.shape}")
        if size is not None and sorted(size) != sorted(pixels.shape[:2]):  # a PNG may state two orientations
            raise Silent(f"its size is {size}, its pixels {pixels.shape}")
        if failure is not None:
            raise failure

    def is_clear(self, said):
        return str(self._path) in said and any(part in said for part in KNOWN)
