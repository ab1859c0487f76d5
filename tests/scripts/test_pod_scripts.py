"""The scripts for Cloud TPU and SLURM: printed instead of run, and run on hosts and a cloud that stand-ins make."""

import os
import pathlib
import subprocess

import pytest

from tests.support import ROOT

SCRIPTS = ROOT / "scripts"
SLICE = {"NAME": "ahs", "ZONE": "us-west4-a", "TYPE": "v5litepod-16", "CONFIG": "configs/vitb.py"}
SLICE |= {"WORKDIR": "gs://bucket/runs/vitb", "DATA": "gs://bucket/data"}


def called(*arguments: str, code: int = 0, **settings: str) -> str:
    environment = {"PATH": os.environ["PATH"], **settings}
    command = ["bash", str(SCRIPTS / "tpu_pod.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dry_run_prints_every_command():
    commands = {action: called("--dry-run", action, **SLICE) for action in ("create", "install", "fetch", "delete")}
    assert (
        "tpu-vm create ahs --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --zone=us"
        in commands["create"]
    )
    assert "--spot" in called("--dry-run", "create", **SLICE, SPOT="1")
    assert commands["install"].count("--worker=all") == 3  # the code, the dependencies, the data
    assert "gcloud storage rsync --recursive gs://bucket/runs/vitb vitb" in commands["fetch"]
    assert "tpu-vm delete ahs --quiet --zone=us-west4-a" in commands["delete"]
    run = called("--dry-run", "run", "--config.train.batch_size=16", **SLICE)
    assert "--distributed --config=configs/vitb.py --workdir=gs://bucket/runs/vitb --config.train.batch_size=16" in run
    resume = called("--dry-run", "resume", **SLICE)
    places = [resume.index(word) for word in (" delete ", " create ", " scp ", "nohup")]
    assert places == sorted(places)


def test_dry_run_of_a_queued_resource():
    create = called("--dry-run", "create", **SLICE, QUEUED="1", SPOT="1")
    wanted = "queued-resources create ahs --node-id=ahs --accelerator-type=v5litepod-16"
    assert f"{wanted} --runtime-version=v2-alpha-tpuv5-lite --spot --zone=us-west4-a" in create
    delete = called("--dry-run", "delete", **SLICE, QUEUED="1")
    assert "queued-resources delete ahs --force --quiet --zone=us-west4-a" in delete


def test_what_is_missing_is_named():
    assert "set NAME" in called("create", code=1)
    assert "set CONFIG" in called("--dry-run", "run", code=1, **(SLICE | {"CONFIG": ""}))
    assert "unknown action nothing; choose create," in called("nothing", code=2, **SLICE)


def test_scripts_parse():
    for name in ("tpu_pod.sh", "slurm.sh"):
        subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)


# ------------------------------------------------------------------------------------------ a cloud of stand-ins

# One host, whose home is $HOST and whose programs are $HOST_PROGRAMS alone; queued resources become active in the end.
GCLOUD = """#!/bin/bash
echo "$*" >> "$LOG"
case "$*" in
  *queued-resources\\ describe*)
    [[ -f $HOST/../queued ]] || exit 1
    state=$(head -n 1 "$HOST/../states"); sed -i '1{$!d}' "$HOST/../states"; echo "$state" ;;
  *queued-resources\\ create*) touch "$HOST/../queued" ;;
  *\\ scp\\ *) for word; do if [[ -f $word ]]; then cp "$word" "$HOST/ahs_seg_jax.tar.gz"; fi; done ;;
  *\\ ssh\\ *)
    for word; do
      if [[ $word == --command=* ]]; then
        (cd "$HOST" && env -i HOME="$HOST" PATH="$HOST_PROGRAMS" LOG="$LOG" /bin/bash -c "${word#--command=}")
      fi
    done ;;
esac
"""
PYTHON_310 = """#!/bin/sh
[ "$1" = -m ] && [ "$2" = venv ] && { echo "not created: ensurepip is missing" >&2; exit 1; }
echo "Python 3.10.12"
"""
# The installer of uv puts uv into ~/.local/bin; uv brings the Python that it is asked for.
CURL = """#!/bin/bash
cat <<'END'
mkdir -p "$HOME/.local/bin"
cat > "$HOME/.local/bin/uv" <<'UV'
#!/bin/bash
echo "uv $*" >> "$LOG"
if [[ $1 == venv ]]; then
  mkdir -p .venv/bin
  printf '#!/bin/sh\\necho "python $*" >> "%s"\\n' "$LOG" > .venv/bin/python
  chmod +x .venv/bin/python
fi
UV
chmod +x "$HOME/.local/bin/uv"
END
"""
TOOLS = ("bash", "sh", "mkdir", "tar", "gzip", "cat", "chmod", "nohup", "setsid", "sleep", "env")


class Cloud:
    """A cloud with one host, whose own Python is 3.10 without venv, as on Ubuntu 22.04."""

    def __init__(self, folder: pathlib.Path):
        self.host, self.log, self.folder = folder / "host", folder / "log", folder
        own, here = folder / "host_programs", folder / "programs"
        for path in (self.host, own, here):
            path.mkdir()
        for tool in TOOLS:
            found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
            (own / tool).symlink_to(found)
        for path, text in ((own / "python3", PYTHON_310), (own / "curl", CURL), (here / "gcloud", GCLOUD)):
            path.write_text(text)
            path.chmod(0o755)
        (own / "gcloud").symlink_to(here / "gcloud")
        self.environment = SLICE | {
            "PATH": f"{here}:{os.environ['PATH']}",
            "HOST": str(self.host),
            "LOG": str(self.log),
        }
        self.environment |= {"HOST_PROGRAMS": str(own), "POLL_SECONDS": "0"}

    def call(self, *arguments: str, code: int = 0, **settings: str) -> str:
        return called(*arguments, code=code, **(self.environment | settings))

    def lines(self, beginning: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(beginning)]


def test_a_host_with_python_310_gets_its_own_python(tmp_path):
    cloud = Cloud(tmp_path)
    cloud.call("install", DATA="")
    assert (cloud.host / "ahs_seg_jax" / "pyproject.toml").is_file()
    assert cloud.lines("uv") == [
        "uv venv --quiet --clear --python 3.12 .venv",
        "uv pip install --quiet --python .venv .[tpu,gcs]",
    ]
    cloud.call("install", DATA="")  # a second time uv is there already
    assert len(cloud.lines("uv")) == 4


def test_a_queued_slice_is_waited_for(tmp_path):
    cloud = Cloud(tmp_path)
    (tmp_path / "states").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    assert "ahs: PROVISIONING" in cloud.call("create", QUEUED="1")
    assert len(cloud.lines("compute tpus queued-resources create")) == 1
    cloud.call("create", QUEUED="1")  # it is in the queue: waited for, not asked for again
    assert len(cloud.lines("compute tpus queued-resources create")) == 1


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_slice_that_will_not_come_is_said(state, tmp_path):
    cloud = Cloud(tmp_path)
    (tmp_path / "states").write_text(f"WAITING_FOR_RESOURCES\n{state}\n")
    printed = cloud.call("create", QUEUED="1", code=1)
    assert f"the slice ahs will not come ({state})" in printed


def test_slurm_example_requeues(tmp_path):
    for name, text in (("srun", "#!/bin/sh\nexit $CODE\n"), ("scontrol", '#!/bin/sh\necho "$*" >> "$LOG"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "SLURM_JOB_ID": "7"}
    for code in (0, 1, 75, 134):
        command = ["bash", str(SCRIPTS / "slurm.sh"), "--config=configs/vitb.py"]
        done = subprocess.run(command, env=environment | {"CODE": str(code)}, check=False)
        assert done.returncode == code
    assert log.read_text() == "requeue 7\nrequeue 7\n"
