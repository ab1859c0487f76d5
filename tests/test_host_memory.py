"""The allocator's settings are accepted where there is one to set, in a process of their own."""

import subprocess
import sys


def test_settings_are_accepted_on_linux():
    code = "from ahs_seg_jax.host_memory import keep_freed_memory as f; import sys; sys.exit(0 if f() else 3)"
    expected = 0 if sys.platform.startswith("linux") else 3
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == expected
