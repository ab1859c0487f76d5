"""Settings of every test: the CPU, strict rank promotion, and where the shared golden numbers are."""

import gc
import os
import pathlib
import signal

from tests.support.xla_flags import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Text embeddings of an earlier run would hide what a test looks at; tests of the cache name a folder.
os.environ["AHS_SEG_TEXT_CACHE"] = "off"
# A test runs a program once or twice: LLVM's optimisation would take longer than it saves, also in processes that tests
# start. Tests marked slow, which compute at full size in this process, have it (`pytest_runtest_setup`).
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Several devices on one CPU, so that whatever shards is tested sharded. Must be set before JAX starts.
os.environ.setdefault("XLA_FLAGS", xla_flags(4))

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Several processes take files in the order of `pytest_collection_modifyitems`, not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: at the end one of them would leave the other processes without work."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the fixtures of a test: whether what it compiles is optimised."""
    jax.config.update("jax_disable_most_optimizations", item.get_closest_marker("slow") is None)


HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

MOST_MEMORY = 3 * 10**9  # bytes of one process of tests, above which compiled programs are forgotten


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """After a file of tests: what was compiled for it goes, if the process has grown large. Linux only."""
    yield
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _signal_handlers():
    """After every test the handlers of the start. A command called in this process leaves its own, as commands may."""
    yield
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of golden numbers and real photographs; tests that need it are skipped where it is absent."""
    default = pathlib.Path(__file__).resolve().parents[2] / "shared"
    path = pathlib.Path(os.environ.get("AHS_SEG_SHARED", default))
    if not (path / "golden").is_dir():
        pytest.skip(f"no golden numbers at {path} (set AHS_SEG_SHARED)")
    return path


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The small golden files stored among the tests."""
    return pathlib.Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="module")
def stand_in():
    """Puts the stand-in in the model's place, for tests of what is built around the model."""
    from ahs_seg_jax.models import ahs_seg
    from tests.support.standin import StandIn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahs_seg, "AHSSeg", StandIn)
        yield


@pytest.fixture
def torch():
    """PyTorch, which the extra `convert` brings."""
    return pytest.importorskip("torch")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on the loopback, and an empty cache; who asks shows no token."""
    from huggingface_hub import constants

    from tests.support import fake_hub

    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield running
