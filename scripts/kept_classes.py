"""How many classes of a long vocabulary a view needs: labels by margins (`keep`) beside those of all classes.

    python scripts/kept_classes.py --names 400 --scenes 50 --protocol whole --widths 1 1.5 2 2.5 3

Drawn scenes are segmented by the packaged model, with the scenes' own names and names of ADE20K behind them. Each line
of the table is a margin: classes that a view needs and keeps, the share of pixels with the same label as when all
classes are kept, the least share of any scene, and the time of a picture.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from ahs_seg_jax import Segmenter, Vocabulary
from ahs_seg_jax.config import DataConfig, ScenesConfig
from ahs_seg_jax.data import catalogue
from ahs_seg_jax.inference import keeping
from ahs_seg_jax.inference.keeping import Margin


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=400, help="of ADE20K, behind the scenes' own")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--protocol", default="whole", choices=("whole", "cat_seg"))
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 1.5, 2.0, 2.5, 3.0])
    return parser.parse_args(argv)


def main() -> None:
    """Prints the table."""
    options = parse()
    source = catalogue.open_source(
        DataConfig(name="scenes", scenes=ScenesConfig(val_images=max(200, options.scenes))), "val"
    )
    own = source.vocabulary.names
    others = [name for name in Vocabulary.named("ade20k_847").names if name not in own]
    names, pictures = [*own, *others[: options.names]], [source[i]["image"] for i in range(options.scenes)]
    segment = lambda keep: _segmented(pictures, names, options.protocol, keep)
    expected, seconds, _ = segment(None)
    beyond = np.mean([(labels >= len(own)).mean() for labels in expected])
    others_share = f"{100 * beyond:.2f} % of the pixels get one of the others"
    print(f"{len(names)} names, {len(pictures)} scenes, {options.protocol}; {others_share}")
    print("| margin | needs, mean | most | keeps, mean | same labels | least of a scene | a picture |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(f"| none: all | | | {len(names)} | 100 % | 100 % | {1000 * seconds:.0f} ms |")
    for width in options.widths:
        found, seconds, counts = segment(Margin(width))
        same = [float((a == b).mean()) for a, b in zip(found, expected, strict=True)]
        needed, kept = np.array(counts).T
        print(
            f"| {width:g} | {needed.mean():.1f} | {needed.max()} | {kept.mean():.1f} | {100 * np.mean(same):.3f} % | "
            f"{100 * min(same):.2f} % | {1000 * seconds:.0f} ms |",
            flush=True,
        )


def _segmented(
    pictures: list[np.ndarray], names: list[str], protocol: str, keep: Margin | None
) -> tuple[list[np.ndarray], float, list[tuple[int, int]]]:
    """Labels, seconds of a picture (the median), and for each view the classes that it needs and those it keeps."""
    counts: list[tuple[int, int]] = []
    choose: Callable[..., np.ndarray] = keeping.kept

    def watching(correlation: np.ndarray, keep: keeping.Keep) -> np.ndarray:
        found = choose(correlation, keep)
        assert isinstance(keep, Margin)
        counts.append((int((keeping.nearest(correlation) <= keep.width).sum()), len(found)))
        return found

    segmenter = Segmenter.from_pretrained("tiny", protocol=protocol, keep=keep).set_vocabulary(names)
    keeping.kept = watching
    try:
        labels, seconds = [], []
        for picture in pictures:
            started = time.perf_counter()
            labels.append(segmenter(picture).labels)
            seconds.append(time.perf_counter() - started)
        return labels, float(np.median(seconds)), counts
    finally:
        keeping.kept = choose


if __name__ == "__main__":
    main()
