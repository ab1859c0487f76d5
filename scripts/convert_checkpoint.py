"""The command `ahs-seg convert` as a script of the source repository; --help explains it."""

import sys

from ahs_seg_jax.cli.app import app

app(["convert", *sys.argv[1:]])
