"""The page of the packaged model, running in a process of its own, for attacks over real HTTP."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import types

import pytest

from tests.support.processes import wait_until_it_listens

LIMITS = ("--max-upload-mb", "2", "--max-megapixels", "1", "--max-classes", "12")


@pytest.fixture(scope="module")
def running_page(tmp_path_factory):
    """`port`, `folder` of its uploads, `secret`: a picture of this machine that is no upload, `log`, `pid`."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("needs the extra demo")
    root = tmp_path_factory.mktemp("page")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    environment = os.environ | {"TMPDIR": str(root), "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    command = [sys.executable, "-m", "ahs_seg_jax", "demo", "--port", str(port), *LIMITS]
    log = root / "log"
    with log.open("w") as file:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
        server = subprocess.Popen(
            [*command, "--allowed-host", "page.example.org"], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        signal.signal(signal.SIGINT, before)
    try:
        wait_until_it_listens(server, port, log)
        (folder,) = root.glob("ahs_seg_demo_*")
        secret = root / "secret.png"
        shutil.copy(folder / "example_1.png", secret)
        yield types.SimpleNamespace(port=port, folder=folder, secret=secret, log=log, pid=server.pid)
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(timeout=60)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not folder.exists(), "uploads were left behind"
