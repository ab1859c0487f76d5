"""The benchmarks as builders of TensorFlow Datasets, one class each, named as they are.

`tfds.builder("voc_20", data_dir=..., file_format="array_record")` after this module is imported, then
`download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=<folder of the downloads>))`. The records
are those of `ahs-seg data prepare`, which writes the same layout in parallel and continues when it was stopped.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from ahs_seg_jax.data.benchmarks.benchmark import Listing
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS, benchmark
from ahs_seg_jax.data.prepared import layout, preparation
from ahs_seg_jax.data.prepared.example import make_example


class BenchmarkBuilder(tfds.core.GeneratorBasedBuilder):
    """Reads the downloads in `manual_dir`. Raises CorruptExample at an unreadable file."""

    VERSION = tfds.core.Version(layout.VERSION)
    RELEASE_NOTES = layout.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = "see `ahs-seg data prepare --help`"
    name = "ahs_seg_benchmark"
    # Said here because TFDS finds it out with a package that it does not install.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=layout.features(benchmark(self.name)))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = pathlib.Path(dl_manager.manual_dir)
        found = preparation.listings(benchmark(self.name), root, print)
        return {split: self._generate_examples(listing) for split, listing in found.items()}

    def _generate_examples(self, listing: Listing) -> Iterator[tuple[str, dict[str, Any]]]:
        for pair in listing.pairs:
            example = make_example(benchmark(self.name), pair)
            yield pair.name, {"name": pair.name, "image": example.image, "label": example.label}


BUILDERS = {
    name: type(
        "".join(part.capitalize() for part in name.split("_")),
        (BenchmarkBuilder,),
        {"name": name, "MANUAL_DOWNLOAD_INSTRUCTIONS": known.downloads, "__module__": __name__},
    )
    for name, known in BENCHMARKS.items()
}
