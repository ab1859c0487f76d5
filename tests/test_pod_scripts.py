"""The scripts for Cloud TPU and SLURM: what they would do, printed instead of done."""

import os
import subprocess

from tests.support import ROOT

SCRIPTS = ROOT / "scripts"
SLICE = {"NAME": "ahs", "ZONE": "us-west4-a", "TYPE": "v5litepod-16", "CONFIG": "configs/vitb.py"}
SLICE |= {"WORKDIR": "gs://bucket/runs/vitb", "DATA": "gs://bucket/data"}


def printed(*arguments: str, code: int = 0, **settings: str) -> str:
    environment = {"PATH": os.environ["PATH"], **settings}
    command = ["bash", str(SCRIPTS / "tpu_pod.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_dry_run_prints_every_command():
    commands = {action: printed("--dry-run", action, **SLICE) for action in ("create", "install", "fetch", "delete")}
    assert (
        "tpu-vm create ahs --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --zone=us"
        in commands["create"]
    )
    assert "--spot" in printed("--dry-run", "create", **SLICE, SPOT="1")
    assert commands["install"].count("--worker=all") == 3  # the code, the dependencies, the data
    assert "gcloud storage rsync --recursive gs://bucket/runs/vitb vitb" in commands["fetch"]
    assert "tpu-vm delete ahs --quiet --zone=us-west4-a" in commands["delete"]
    run = printed("--dry-run", "run", "--config.train.batch_size=16", **SLICE)
    assert "--distributed --config=configs/vitb.py --workdir=gs://bucket/runs/vitb --config.train.batch_size=16" in run
    resume = printed("--dry-run", "resume", **SLICE)
    assert [resume.index(word) for word in (" delete ", " create ", " scp ", "nohup")] == sorted(
        resume.index(word) for word in (" delete ", " create ", " scp ", "nohup")
    )


def test_what_is_missing_is_named():
    assert "set NAME" in printed("create", code=1)
    assert "set CONFIG" in printed("--dry-run", "run", code=1, **(SLICE | {"CONFIG": ""}))
    assert "unknown action nothing; choose create," in printed("nothing", code=2, **SLICE)


def test_scripts_parse():
    for name in ("tpu_pod.sh", "slurm.sh"):
        subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)
