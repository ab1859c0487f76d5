"""`docs/ablation.md` and its picture, made from `results/ablation.json`: a number without a file cannot be there.

    python scripts/ablation_page.py            # writes both
    python scripts/ablation_page.py --check    # fails if the page says anything else than the file

The file is `ablation.json` of the workdir of `scripts/run_ablations.py`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python puts only the folder of a script there

from scripts import ablation_study
from scripts.ablation_study import Study

PICTURE = f"images/{ablation_study.PICTURE}"  # as seen from the page


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page differs")
    parser.add_argument("--study", type=pathlib.Path, default=ROOT / "results" / "ablation.json")
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs" / "ablation.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks. Exit code: 1 if the check fails, 2 without a study."""
    args = parse(arguments)
    if args.check and not args.study.exists() and not args.page.exists():
        return 0  # there is neither a study nor a page that quotes one
    try:
        study = Study.from_json(args.study.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"error: {args.study}: {error}", file=sys.stderr)
        return 2
    made = ablation_study.page(study, PICTURE)
    if not args.check:
        (args.page.parent / PICTURE).parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(made, encoding="utf-8")
        ablation_study.plot(study).save(args.page.parent / PICTURE)
    elif not args.page.is_file() or args.page.read_text(encoding="utf-8") != made:
        said = set(args.page.read_text(encoding="utf-8").splitlines()) if args.page.is_file() else set()
        missing = [line for line in made.splitlines() if line not in said]
        print(f"error: {args.page} does not say what {args.study} holds:", *missing, sep="\n", file=sys.stderr)
        print("run python scripts/ablation_page.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
