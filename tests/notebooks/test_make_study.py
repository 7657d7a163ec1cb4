"""`make study` as a newcomer runs it, at its default budget: some minutes, so under `make test-all` only."""

import os
import subprocess

import pytest

from ctlib.training import records
from tests import ROOT


@pytest.mark.slow
def test_the_study_keeps_its_promises(tmp_path):
    def study():
        command = ["make", "-C", str(ROOT), "study", f"OUT={tmp_path / 'out'}"]
        environment = {**os.environ, "CTLIB_CACHE": str(tmp_path / "cache")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    output = study()
    table = records.load(tmp_path / "out").set_index("name")
    assert table.top1["TSN"] <= 50 and table.top1["CT-Net"] >= 80
    for name in ("TSN", "CT-Net"):
        assert sum(line.split()[:2] == [name, "epoch"] for line in output.splitlines()) == table.epochs[name]
        assert f"{name}: top-1 {table.top1[name]:.1f} ±" in output
    assert (tmp_path / "out" / "quickstart.html").stat().st_size > 10_000

    again = study()
    assert again.count("found the finished run") == 2 and " epoch " not in again
