"""`python -m ahs_seg_jax` is the command `ahs-seg`."""

from ahs_seg_jax.cli.app import run

if __name__ == "__main__":
    run()
