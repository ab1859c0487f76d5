"""`ahs-seg demo`: what it says before it starts."""

import importlib.util
import socket

import pytest

from ahs_seg_jax.cli import demo


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs gradio, which is not installed: pip install 'ahs_seg_jax\[demo\]'"):
        demo._check_extra()


def test_a_port_that_is_taken_is_found_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=f"cannot listen on 127.0.0.1, port {port} .* choose another --port or --host"
        ):
            demo._check_address("127.0.0.1", port)
    demo._check_address("127.0.0.1", port)
