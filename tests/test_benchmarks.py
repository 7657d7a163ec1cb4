"""The script for GPUs, on small shapes on the CPU."""

import json
from functools import partial
from pathlib import Path

import pytest

from ctlib.kernels import folded, gating
from ctlib.kernels.passes import PYTORCH, excite_in_passes

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))
    # In place of what a compiler makes, which takes long.
    ways = {"plain": gating.excite_plain, "passes": partial(excite_in_passes, passes=PYTORCH)}
    for module in (gating, folded):
        monkeypatch.setattr(module, "excite_ways", lambda: ways)
    import gpu

    return gpu


def test_the_gpu_script_measures_inference_and_leaves_out_what_there_is_no_time_for(gpu, tmp_path):
    path = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--minutes", "5", "--record", str(path), "--sections", "inference", "roofline"])
    record = json.loads(path.read_text())
    names = "CT-Net", "CT-Net, plain ways", "CT-Net, no excitation", "C3D"
    compared = {(line["batch"], line["name"]) for line in record["inference"] if "ratio" in line}
    assert compared == {(batch, name) for batch in (2, 1) for name in names}
    assert record["roofline"][1]["over_floor"] > 0 and record["protocol"]["batch"] == 2
    before = json.loads(path.read_text())
    gpu.main(["--tiny", "--minutes", "0", "--add", "--record", str(path), "--sections", "inference"])
    assert json.loads(path.read_text())["inference"] == before["inference"]
    gpu.main(["--tiny", "--minutes", "0", "--record", str(path), "--sections", "equal"])
    assert json.loads(path.read_text())["equal"] == [{"left_out": "no time was left"}]


def test_after_an_error_that_costs_the_gpu_the_rest_runs_in_a_new_process(gpu, monkeypatch, tmp_path):
    path, started = tmp_path / "gpu.json", []
    monkeypatch.setattr(gpu, "is_lost", lambda device: True)
    monkeypatch.setattr(gpu.os, "execv", lambda program, command: started.append(command))
    gpu.main(["--tiny", "--minutes", "0", "--record", str(path), "--sections", "equal", "small"])
    (command,) = started
    assert command[-3:] == ["--sections", "small", "--tiny"] and command[1].endswith("gpu.py")
    gpu.main(command[2:])
    assert {"equal", "small", "protocol"} <= json.loads(path.read_text()).keys() and len(started) == 1


@pytest.mark.slow
def test_all_sections_of_the_gpu_script_measure_and_record(gpu, tmp_path):
    path = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--minutes", "9", "--record", str(path)])
    record = json.loads(path.read_text())
    assert record.pop("graphs") == [{"left_out": "a CPU has no graphs"}]
    lines = [line for name in gpu.SECTIONS for line in record.get(name, ())]
    assert not any("failed" in line or "left_out" in line for line in lines)
    assert all(line["equal"] for line in record["equal"]) and len(record["equal"]) == 24
    ratios = {line["name"]: line["ratio"] for line in record["training"] if "ratio" in line}
    assert {"CT-Net, as chosen", "CT-Net, plain ways", "CT-Net, no excitation", "C3D"} <= ratios.keys()
    assert [line["name"] for line in record["ways"]] == ["as chosen"] * 2  # on a CPU nothing is timed
    assert [line["name"] for line in record["compiled"] if "ratio" in line] == ["CT-Net"]
    assert 0 <= record["idle"][0]["idle_percent"] < 100
    *alone, together = record["small"]
    assert [line["graph"] for line in alone] == [False, False]
    assert together["side_by_side"] == 2 and together["steps_a_second"] > 0
    assert record["notebook"][0]["model"] == "ctnet_quickstart"


def test_without_a_gpu_it_says_how_to_try_it(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "there is no GPU: --tiny tries the script on a CPU" in capsys.readouterr().err
