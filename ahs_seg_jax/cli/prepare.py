"""Prepares benchmarks from their public downloads: python -m ahs_seg_jax.data.prepare NAME [NAME...] --root ROOT

Reads the unpacked downloads below ROOT and writes ROOT/prepared/NAME/VERSION: ArrayRecord files in the layout of
TensorFlow Datasets, labels mapped to class indices. A stopped run is continued by the same command.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool

from ahs_seg_jax.data.benchmarks.benchmark import ROOT_VARIABLE, Listing, resolve_root
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS, benchmark
from ahs_seg_jax.data.prepared import doctor, preparation
from ahs_seg_jax.data.prepared.preparation import DataAbsent, Settings
from ahs_seg_jax.storage import paths


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares and examines every named benchmark; returns the exit code.

    0: the doctor finds nothing wrong with any of them; 1: it refuses one; 2: the input or the machine stopped it; 130: Ctrl-C.
    """
    options = _options(argv)
    settings = Settings(options.jobs or os.cpu_count() or 1, options.limit, options.partial, options.again)
    try:
        root = paths.on_disk(resolve_root(options.root, "--root"), "--root")
        target = paths.on_disk(options.to, "--to") if options.to else root
        found = _find(options.names, root, settings, _say)
        healthy = [_prepare(name, found[name], target, settings, _say) for name in found]
        if target != root:
            _say(f"evaluate them with --config.data.root={target}, or {ROOT_VARIABLE}={target}")
    except BrokenProcessPool:
        print(
            "error: a process was killed, as a full memory does; the same command with fewer --jobs continues",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues from the shards that are finished", file=sys.stderr)
        return 130
    return 0 if all(healthy) else 1


def _say(line: str) -> None:
    print(line, flush=True)


def _find(
    names: Sequence[str], root: pathlib.Path, settings: Settings, log: Callable[[str], None]
) -> dict[str, dict[str, Listing]]:
    """The files of every benchmark by its name. Raises DataAbsent with what is wrong with any of them."""
    found, problems = {}, []
    for name in dict.fromkeys(names):
        try:
            found[name] = preparation.complete_listings(benchmark(name), root, settings, log)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if problems:
        raise DataAbsent("\n\n".join(problems))
    return found


def _prepare(
    name: str, found: dict[str, Listing], target: pathlib.Path, settings: Settings, log: Callable[[str], None]
) -> bool:
    facts = preparation.prepare(benchmark(name), found, target, settings, log)
    report = doctor.record(target, name)
    for split, prepared in facts["splits"].items():
        log(f"{name} {split}: {prepared['images']:,} images, {len(prepared['shard_lengths'])} shards")
        for failure in prepared["failed"]:
            log(f"  left out: {failure['cause']}")
    log(report.text())
    return not report.problems


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ahs_seg_jax.data.prepare", description=__doc__.split(":")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", choices=tuple(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--root", default="", help=f"folder of the unpacked downloads (default: ${ROOT_VARIABLE})")
    parser.add_argument("--to", default="", help="folder that gets prepared/ (default: the root)")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: one for each core)")
    parser.add_argument("--limit", type=int, default=0, help="images of each split, for a trial (default: all)")
    parser.add_argument("--partial", action="store_true", help="prepare what is there of incomplete downloads")
    parser.add_argument("--again", action="store_true", help="start over, also if a preparation is finished")
    options = parser.parse_args(argv)
    if options.jobs < 0 or options.limit < 0:
        parser.error("--jobs and --limit must be 0 or positive")
    return options


if __name__ == "__main__":
    sys.exit(main())
