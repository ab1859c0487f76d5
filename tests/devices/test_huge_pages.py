"""Starting again with huge pages: the same command and process number, once."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")

CODE = """
import os, sys
print("started", os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), flush=True)
from ahs_seg_jax.devices.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
print("went on")
"""


def printed(tunables):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | tunables
    command = [sys.executable, "-c", CODE, "--flag", "a b"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_same_command_starts_again_with_the_setting_and_goes_on():
    first, second, end = printed({})
    assert first == second.replace("glibc.malloc.hugetlb=1", "None")
    assert second.endswith("['--flag', 'a b'] glibc.malloc.hugetlb=1")
    assert end == "went on"


def test_other_tunables_are_kept_and_a_choice_is_respected():
    kept = printed({"GLIBC_TUNABLES": "glibc.malloc.check=0"})[1]
    assert kept.endswith("glibc.malloc.check=0:glibc.malloc.hugetlb=1")
    assert len(printed({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})) == 2
