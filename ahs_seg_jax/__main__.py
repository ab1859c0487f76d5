"""`python -m ahs_seg_jax` is the command `ahs-seg`."""

from ahs_seg_jax.devices.huge_pages import restart_with_huge_pages


def run() -> None:
    """The console script."""
    restart_with_huge_pages()  # before anything is imported that would be imported again
    from ahs_seg_jax.cli import app

    app.run()


if __name__ == "__main__":
    run()
