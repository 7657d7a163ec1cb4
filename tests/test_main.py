import json
import subprocess
import sys

import pytest

from ctlib.__main__ import main


def test_help_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "ctlib", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "arrow" in done.stdout


def test_arrow_writes_a_data_set(tmp_path, capsys):
    arguments = ["arrow", "--root", str(tmp_path / "data"), "--train-clips", "2", "--val-clips", "2", "--size", "16"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "data")
    assert len((tmp_path / "data" / "train.txt").read_text().splitlines()) == 2
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


def test_costs_prints_the_ledger(capsys):
    assert main(["costs"]) == 0
    text = capsys.readouterr().out
    assert "64 of 65 published GFLOPs are met." in text and "19 of 19 published numbers of parameters" in text
    assert "Table 6, CT-Net 16x1x2: cannot be met" in text
    assert main(["costs", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 68
    found = next(record for record in records if (record["table"], record["row"]) == ("8", "CT-Net ResNet-50"))
    names = ("gflops_paper", "gflops", "params_paper", "params")
    assert [found[name] for name in names] == [37.3, pytest.approx(37.319419), 21_000_000, 20_959_150]
    assert next(record for record in records if record["table"] == "2c")["gflops_paper"] is None


def test_a_bad_value_is_one_line(tmp_path, capsys):
    assert main(["arrow", "--root", str(tmp_path / "x"), "--num-frames", "50"]) == 2
    assert capsys.readouterr().err == "python -m ctlib arrow: num_frames must be a multiple of 48, got 50\n"
    with pytest.raises(SystemExit):
        main(["arow"])
