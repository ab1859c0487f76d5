"""What a request says and what is answered, as bytes: index PNG, run-length codes, polygons, areas."""

import io
import json
from typing import Any, Literal

import numpy as np

from ahs_seg_jax.data.open_image import TooManyPixels, open_image
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.segmenter import Segmentation
from ahs_seg_jax.segmenter.words import parse_unknown
from ahs_seg_jax.serve.batching import Words
from ahs_seg_jax.serve.limits import Limits, Refused
from ahs_seg_jax.vocabulary import split_words

Format = Literal["png", "rle", "polygons", "areas"]


def words(names: str, unknown: str, limits: Limits) -> Words:
    """The words of a request. Raises Refused."""
    listed, meaning = split_words(names), parse_unknown(unknown)
    background = meaning if isinstance(meaning, tuple) else ()
    if not listed:
        raise Refused(422, "There are no names: separate them by ';', synonyms by ',', as in 'cat; sofa, couch'.")
    if len(listed) + len(background) > limits.classes:
        raise Refused(
            422, f"These are {len(listed) + len(background)} names; this server takes {limits.classes}: remove some."
        )
    for name in (*listed, *background):
        if len(name) > limits.name_length:
            raise Refused(422, f"A name has {len(name)} letters; this server takes {limits.name_length}: shorten it.")
    if isinstance(meaning, float) and not 0 <= meaning <= 1:
        raise Refused(422, f"unknown is {meaning}; as a probability it must lie within 0..1.")
    return Words(tuple(listed), meaning)


def image(data: bytes, limits: Limits) -> np.ndarray:
    """The uint8 `[H, W, 3]` of an uploaded file. Raises Refused; too many pixels are found before they are decoded."""
    most = limits.upload_mb * 2**20
    if len(data) > most:
        raise Refused(413, f"The image has {len(data)} bytes; this server takes {most}: reduce it.")
    try:
        return open_image(data, int(limits.megapixels * 10**6))
    except TooManyPixels as error:
        raise Refused(
            413,
            f"The image has {error.width} x {error.height} pixels; this server takes {limits.megapixels:g} "
            "megapixels: reduce it.",
        ) from error
    except ValueError as error:
        raise Refused(422, str(error).replace(f"these {len(data)} bytes", "The image", 1)) from error


def rendered(result: Segmentation, form: Format) -> tuple[bytes, str]:
    """The answer and its media type. Raises ImportError for polygons without rasterio."""
    if form == "png":
        file = io.BytesIO()
        label_files.write_png(file, result.labels, len(result.names), names=result.names, colors=result.colors)
        return file.getvalue(), "image/png"
    if form == "polygons":
        return _json({"type": "FeatureCollection", "features": _features(result)}), "application/geo+json"
    about = {key: value for key, value in result.summary().items() if key != "image"}
    if form == "rle":
        about = {"height": about["height"], "width": about["width"], "annotations": result.to_coco(1)}
    return _json({"names": list(result.names), **about}), "application/json"


def _features(result: Segmentation) -> list[dict[str, Any]]:
    """GeoJSON in pixels (x, y), a feature for each polygon, the largest classes first."""
    found = []
    for name in result.areas:
        if name in result.names:
            index = result.names.index(name)
            for polygon in result.polygons(name):
                found.append(
                    {"type": "Feature", "geometry": polygon, "properties": {"name": name, "index": index}},
                )
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
