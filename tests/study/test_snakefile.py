"""The ablations through Snakemake, which has an environment of its own: make .venv-snakemake/installed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.study.conftest import TINY

SNAKEMAKE = ROOT / ".venv-snakemake" / "bin" / "snakemake"
needs_snakemake = pytest.mark.skipif(
    not SNAKEMAKE.exists(), reason="Snakemake is not installed: make .venv-snakemake/installed"
)


def snakemake(folder, *options, **config):
    """The call that the Snakefile shows, on two cores and data of a few clips; None: a key that is not given."""
    config = {"tables": "2c", "seeds": 0, "out_dir": folder / "out", "overrides": TINY} | config
    config |= {"python": sys.executable}
    command = [str(SNAKEMAKE), "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", str(ROOT / "profiles" / "default"), "-c2", *options]
    command += ["--config", *(f"{name}={value}" for name, value in config.items() if value is not None)]
    environment = {**os.environ, "CTLIB_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def planned(folder, *options, **config):
    """The records that a dry run would make, and what it prints."""
    process = snakemake(folder, "--dry-run", *options, **config)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return re.findall(r"^    output: (.*)$", output, re.MULTILINE), output


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_profiles_repeat_no_finished_run_and_continue_after_a_failure(name):
    profile = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    assert profile["keep-going"] is True and profile["rerun-triggers"] == "mtime" and profile["nolock"] is True
    assert profile.get("executor") == ("slurm" if name == "slurm" else None)


@needs_snakemake
@pytest.mark.slow
def test_a_dry_run_lists_every_run_once(tmp_path):
    records, output = planned(tmp_path, tables="2a 2c")
    counts = {line.split()[0]: int(line.split()[1]) for line in output.splitlines() if line[:4] in ("run ", "all ")}
    assert counts == {"run": 6, "all": 1} and len(set(records)) == 6


@needs_snakemake
@pytest.mark.slow
def test_what_a_finished_study_lacks_is_planned(tmp_path):
    out = tmp_path / "it's [1] out"
    records, _ = planned(tmp_path, out_dir=out)
    assert len(records) == 3 and all(record.startswith(f"{out}/") for record in records)
    for record in map(Path, records):
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    (out / "runs.csv").touch()
    (tmp_path / "more.yaml").write_text("tables: [2a, 2c]\nseeds: [0, 7]\n")
    more, _ = planned(tmp_path, "--configfile", "more.yaml", out_dir=out, tables=None, seeds=None)
    assert len(more) == 9 and set(more).isdisjoint(records)
    assert {record.replace("seed0", "seed7") for record in records} < set(more)


@needs_snakemake
@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"tabels": "2a"}, "unknown key 'tabels' of --config: did you mean 'tables'? known are tables, seeds, "),
        ({"out_dir": "2024_01"}, "out_dir of --config must be text, and Snakemake reads int 202401: write a folder"),
        ({"out_dir": "/dev/null/runs"}, "out_dir of --config must be a folder, and /dev/null is none"),
        ({"out_dir": "a{b}"}, "must be without braces, which are Snakemake's wildcards, got a{b}"),
    ],
)
def test_a_bad_key_or_value_is_refused_with_its_name(tmp_path, config, error):
    process = snakemake(tmp_path, "--dry-run", **config)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and error in output and "Traceback" not in output


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
