"""`ahs-seg serve`: what it says before it starts; and the packaged model behind it, over HTTP."""

import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ahs_seg_jax.cli import app, serve
from ahs_seg_jax.pictures import label_files
from tests.support.processes import free_port, wait_until_it_listens

NAMES = ("grass", "sand", "brick wall")


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"needs fastapi, .*uvicorn, which is not .*pip install 'ahs_seg_jax\[serve\]'"
    ):
        serve._check_extra()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--allowed-host", "https://x.org"], "'https://x.org' is no host name; give it without scheme and port"),
        (["--api-key", "short"], "the API key is shorter than 16 letters, or has other letters than a header can hold"),
        (["--api-key", "long enough but with blanks"], "make one: python -c 'import secrets"),
        (["--max-together", "0"], "'--max-together': Input should be greater than or equal to 1"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(arguments, text):
    pytest.importorskip("fastapi_offline")
    done = CliRunner().invoke(app.app, ["serve", "--model", "no such model", "--port", str(free_port()), *arguments])
    assert done.exit_code == 2
    assert text in done.output


def test_a_port_that_is_taken(monkeypatch):
    pytest.importorskip("fastapi_offline")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app.app, ["serve", "--model", "no such model", "--port", str(port)])
    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in done.output


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Of the command, running with the packaged model; it ends with 0 when it is told to stop."""
    pytest.importorskip("fastapi_offline")
    number, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "ahs_seg_jax", "serve", "--port", str(number), "--max-together", "4"]
    with log.open("w") as file:
        server = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=file, stderr=file)
    try:
        wait_until_it_listens(server, number, log)
        yield number
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_concurrent_requests_get_the_labels_that_each_gets_alone(port):
    import http.client

    from ahs_seg_jax.segmenter import Segmenter
    from tests.support.serving import form

    segmenter, rng = Segmenter.from_pretrained("tiny"), np.random.default_rng(0)
    images = [rng.integers(0, 256, (int(side), 53, 3), np.uint8) for side in rng.integers(30, 200, 12)]
    found = [None] * len(images)

    def ask(index):
        body, kind = form(images[index], names=";".join(NAMES))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/segment", body, {"Content-Type": kind})
        answer = connection.getresponse()
        found[index] = (answer.status, answer.read())
        connection.close()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in found] == [200] * len(images)
    for image, (_, body) in zip(images, found, strict=True):
        np.testing.assert_array_equal(label_files.read_mask(io.BytesIO(body)), segmenter(image, NAMES).labels)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    calls = float(text.partition("ahs_seg_images_together_count ")[2].partition("\n")[0])
    assert float(text.partition("ahs_seg_images_together_sum ")[2].partition("\n")[0]) == len(images)
    assert calls < len(images)  # some shared a call


def test_drawings_by_their_file(port):
    from ahs_seg_jax.demo import examples
    from tests.support.serving import form

    drawn, file = examples.examples()[0], io.BytesIO()
    Image.fromarray(drawn.image).save(file, "JPEG")
    body, kind = form(file.getvalue(), names="\n".join(drawn.names), format="areas")
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/segment", body, {"Content-Type": kind})
    found = json.loads(connection.getresponse().read())
    connection.close()
    assert sum(entry["share"] for entry in found["classes"].values()) == pytest.approx(1, abs=1e-4)
    assert set(found["classes"]) <= set(drawn.names)
