"""rivals.ipynb on a few systems and videos."""

import ast
import re

import nbformat
import pandas as pd
import pytest

from ctlib.study import systems
from ctlib.training import recipes
from tests import ROOT
from tests.notebooks import run_here

TINY = "data.workers=0 recipe.epochs=1 recipe.warmup=0 recipe.batch=8"
TINY += " arrow.train_clips=16 arrow.val_clips=16 arrow.size=48"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_systems_are_looked_at_trained_and_compared(run, tmp_path, cache):
    given = {"overrides": TINY, "out_dir": str(tmp_path / "out"), "seeds": "0 1", "seconds": 0.01}
    text, html, *_ = run("rivals", systems="TSN; CT-Net; Non-local; C3D", scratch_epochs=1, **given)
    table = pd.read_csv(tmp_path / "out" / "rivals.csv")
    assert table.groupby("system").seed.apply(list).to_dict() == dict.fromkeys(
        ["C3D", "CT-Net", "CT-Net, from scratch", "Non-local", "TSN", "TSN, from scratch"], [0, 1]
    )
    random = table.system.isin(["C3D", "CT-Net, from scratch", "TSN, from scratch"])
    assert table.start.eq("random").equals(random) and set(table.start[~random]) == {"shapes"}
    assert "12 trainings, 0 of them finished" in text and "of 3 by mean accuracy (start: random)" in text
    assert text.count("blind to reversal: ") == 3 and "minus CT-Net, points" in "".join(html)
    figures = {"side_by_side.png"} | {f"reach_{group}.png" for group in ("control", "sets", "whole")}
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == figures
    assert "1 of 33" in "".join(html) and "8 of 8" in "".join(html)
    text, *_ = run_here("rivals", systems="TSN; CT-Net; C3D", train=False, **given)
    assert "4 trainings, 4 of them finished" in text  # C3D starts from random weights


def test_every_system_has_a_picture_and_three_sentences():
    cells = nbformat.read(ROOT / "notebooks" / "rivals.ipynb", 4).cells
    calls = [ast.parse(cell.source).body[0].value for cell in cells if cell.source.startswith("show(")]
    assert sorted(name.value for call in calls for name in call.args[1:]) == sorted([*systems.SMALL, "NL-I3D + GCN"])
    texts = [text for cell in cells if "\n- **" in cell.source for text in cell.source.split("\n- **")[1:]]
    assert len(texts) == 24
    for text in texts:
        plain = re.sub(r"\s+", " ", text.replace("**", ""))
        assert len(re.findall(r"\.(?= |$|\))", plain)) >= 3 and "cost" in plain, plain


def test_it_says_how_many_trainings_there_are():
    text = nbformat.read(ROOT / "notebooks" / "rivals.ipynb", 4).cells[0].source
    pretrained = [name for name in systems.SMALL.values() if recipes.run_config("arrow", name, "laptop").model.weights]
    assert f", {3 * len(pretrained)} trainings of" in text  # three seeds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"systems": "CTNet"}, "unknown system 'CTNet': did you mean 'CT-Net'"),
        ({"systems": "TSN", "train": False}, "no training is finished in .*set train to True"),
        ({"systems": "TSN", "seeds": "0 0"}, "seeds must be whole numbers from 0, each once"),
    ],
)
def test_what_cannot_run_is_one_line(given, message, tmp_path, cache):
    with pytest.raises(Exception, match=message):
        run_here("rivals", out_dir=str(tmp_path), **given)
