"""`ahs-seg data doctor`: examines prepared data and downloads."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from ahs_seg_jax.data.benchmarks.benchmark import ROOT_VARIABLE, resolve_root
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.prepared import doctor, layout
from ahs_seg_jax.storage import paths


def main(argv: Sequence[str] | None = None) -> int:
    """Examines every named benchmark; returns the exit code.

    0: nothing is wrong with any of them; 1: one is refused; 2: one could not be examined (named on stderr; the others were).
    """
    parser = argparse.ArgumentParser(prog="python -m ahs_seg_jax.data.doctor", description=__doc__.split(":")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", choices=tuple(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--root", default="", help=f"folder that holds prepared/ (default: ${ROOT_VARIABLE})")
    parser.add_argument("--output", default="", help="folder of the contact sheets (default: beside the data)")
    options = parser.parse_args(argv)
    output = pathlib.Path(options.output) if options.output else None
    code = 0
    for name in options.names:
        try:
            root = paths.on_disk(resolve_root(options.root, "--root"), "--root")
            prepared = bool(layout.read_facts(layout.prepared_folder(root, name)))
            report = (
                doctor.record(root, name, output, reread=True) if prepared else doctor.examine_downloads(root, name)
            )
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
            continue
        print(report.text())
        if prepared:
            print(f"  look at {output or layout.prepared_folder(root, name)}/contact_sheet-*.png")
        code = max(code, int(bool(report.problems)))
    return code


if __name__ == "__main__":
    sys.exit(main())
