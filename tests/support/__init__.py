"""What several tests share: small models, stand-ins, miniature data sets, and the programs that tests start."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]  # of the repository
