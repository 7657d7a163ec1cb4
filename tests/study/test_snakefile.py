"""The ablations through Snakemake, which has an environment of its own: make .venv-snakemake/installed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests import ROOT
from tests.study.conftest import TINY

SNAKEMAKE = ROOT / ".venv-snakemake" / "bin" / "snakemake"
needs_snakemake = pytest.mark.skipif(
    not SNAKEMAKE.exists(), reason="Snakemake is not installed: make .venv-snakemake/installed"
)


def snakemake(folder, *options, tables="2c"):
    """The call that the Snakefile shows, on two cores and data of a few clips."""
    config = [
        f"tables={tables}",
        "seeds=0",
        f"out_dir={folder / 'out'}",
        f"overrides={TINY}",
        f"python={sys.executable}",
    ]
    command = [str(SNAKEMAKE), "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    environment = {**os.environ, "CTLIB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-c2", *options, "--config", *config], env=environment, text=True, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_profiles_repeat_no_finished_run_and_continue_after_a_failure(name):
    profile = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    assert profile["keep-going"] is True and profile["rerun-triggers"] == "mtime" and profile["nolock"] is True
    assert profile.get("executor") == ("slurm" if name == "slurm" else None)


@needs_snakemake
def test_a_dry_run_lists_every_run_once(tmp_path):
    process = snakemake(tmp_path, "--dry-run", tables="2a 2c")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    counts = {line.split()[0]: int(line.split()[1]) for line in output.splitlines() if line[:4] in ("run ", "all ")}
    assert counts == {"run": 6, "all": 1}


@needs_snakemake
@pytest.mark.slow
def test_a_killed_sweep_is_resumed_and_a_failure_stops_nothing_else(tmp_path):
    out = tmp_path / "out"
    process = snakemake(tmp_path)
    try:
        began = time.monotonic()
        while not list(out.glob("*/seed0/tests.json")):
            assert process.poll() is None and time.monotonic() - began < 300, process.communicate()[0]
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/seed0/result.json")}

    # The folder of another run holds something that is not its record.
    names = ("ctnet_plain_serial", "ctnet_plain_coupling", "ctnet_plain")
    broken = next(out / name for name in names if out / name not in [path.parents[1] for path in finished])
    (broken / "seed0").mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "result.json"):
        (broken / "seed0" / name).write_text("{}")
    process = snakemake(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "Error in rule run" in output and broken.name in output
    assert len(list(out.glob("*/seed0/tests.json"))) == 2 and not (out / "runs.csv").exists()

    shutil.rmtree(broken)
    process = snakemake(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert (out / "runs.csv").is_file() and all(path.stat().st_mtime_ns == then for path, then in finished.items())
