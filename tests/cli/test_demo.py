"""`ahs-seg demo`: what it says before it starts."""

import importlib.util
import socket

import pytest
import typer

from ahs_seg_jax.cli import demo, options


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
            options.check_address("127.0.0.1", port)
    options.check_address("127.0.0.1", port)


def test_a_name_that_is_no_host_is_found_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with pytest.raises(typer.Exit):
        demo.demo("no such model", port=port, allowed_host=["https://x.org"])
    assert "'https://x.org' is no host name; give it without scheme and port" in capsys.readouterr().err
