"""Stand-ins for storage in the cloud, on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import free_port
from tests.support.xla_flags import xla_flags


@contextlib.contextmanager
def google_cloud_storage() -> Iterator[dict[str, str]]:
    """The environment of processes whose gs:// is a server on this machine, with one empty bucket: `gs://bucket`.

    Skips the test without gcsfs and the emulator.
    """
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    with subprocess.Popen(
        [*command, "--in-memory", "--default-bucket=bucket"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            address = f"http://127.0.0.1:{port}"
            yield os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": xla_flags(1),
                "STORAGE_EMULATOR_HOST": address,  # gcsfs, google-cloud-storage
                "TENSORSTORE_GCS_HTTP_URL": address,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
                "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # ArrayRecord
                "STAND_IN": str(server.pid),
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # or it asks Google what kind of bucket this is
            }
        finally:
            server.kill()
