"""The sweep through Snakemake, where that is installed (`pip install -e .[sweep]`)."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests import ROOT
from tests.study.test_jobs import TINY

needs_snakemake = pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None, reason="Snakemake is not installed: pip install -e .[sweep]"
)


def snakemake(folder, *options, tables="2c"):
    """The call that the Snakefile shows, on two cores and data of a few clips."""
    config = [f"tables={tables}", "seeds=0", f"out_dir={folder / 'out'}", f"overrides={TINY}"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    environment = {**os.environ, "CTLIB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-c2", *options, "--config", *config], env=environment, text=True, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_profiles_repeat_no_finished_run_and_go_on_after_a_failure(name):
    profile = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    assert profile["keep-going"] is True and profile["rerun-triggers"] == "mtime" and profile["nolock"] is True
    assert profile.get("executor") == ("slurm" if name == "slurm" else None)


@needs_snakemake
def test_a_dry_run_lists_every_run_once_and_the_tables(tmp_path):
    process = snakemake(tmp_path, "--dry-run", tables="2a 2c")
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    counts = {line.split()[0]: int(line.split()[1]) for line in told.splitlines() if line[:5] in ("run  ", "table")}
    assert counts == {"run": 6, "table": 2}


@needs_snakemake
@pytest.mark.slow
def test_a_killed_sweep_is_resumed_and_a_failure_is_kept_and_stops_nothing_else(tmp_path):
    runs, notebooks = tmp_path / "out" / "runs", tmp_path / "out" / "notebooks"
    process = snakemake(tmp_path)
    try:
        waited = time.monotonic()
        while not list(runs.glob("*/seed0/tests.json")):
            assert process.poll() is None and time.monotonic() - waited < 300, process.communicate()[0]
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/seed0/result.json")}

    # Something that is no record of its run lies in the folder of another.
    broken = next(
        path
        for path in (runs / name for name in ("ctnet_plain_serial", "ctnet_plain_coupling", "ctnet_plain"))
        if path not in [p.parents[1] for p in finished]
    )
    (broken / "seed0").mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "result.json"):
        (broken / "seed0" / name).write_text("{}")
    process = snakemake(tmp_path)
    told, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "Error in rule run" in told
    assert f"{broken.name}_seed0" in told and (notebooks / f"{broken.name}_seed0.ipynb").is_file()
    assert len(list(runs.glob("*/seed0/tests.json"))) == 2 and not (tmp_path / "out" / "tables").exists()

    shutil.rmtree(broken)
    process = snakemake(tmp_path)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert (tmp_path / "out" / "tables" / "2c.csv").is_file()
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
