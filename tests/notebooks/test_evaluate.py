"""evaluate.ipynb on checkpoints of ours and in the authors' layout."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from ctlib import checkpoints
from ctlib.config import DataConfig, RunConfig
from ctlib.data.actions import class_names
from ctlib.display.parameters import ParameterError
from ctlib.models import build_model, model_config
from ctlib.training import records
from ctlib.training.evaluate import Scores
from tests.notebooks import processes, run_here
from tests.test_checkpoints import Theirs
from tests.training.test_records import run_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run folders of TSN and CT-Net with random weights, of 4 and 8 frames."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model, num_frames in (("TSN", "tsn_quickstart", 4), ("CT-Net", "ctnet_quickstart", 8)):
        torch.manual_seed(0)
        config = model_config(model, num_classes=16, num_frames=num_frames)
        network = build_model(config)
        nn.init.normal_(network.fc.weight)
        run = records.RunFolder(folder / name / "seed0")
        run.start(run_of(RunConfig(name=name, model=config, data=DataConfig(size=32))))
        checkpoints.save(run.checkpoint, network, class_names("easy"))
    return folder


def evaluated(folder, root, patterns, run=run_here, **parameters):
    parameters["overrides"] = f"data.size=32 data.workers=0 {parameters.pop('overrides', '')}"
    given = {"root": str(root), "device": "cpu", "out_dir": str(folder / "out"), **parameters}
    return run("evaluate", checkpoints=patterns, **given)


def test_every_network_and_view_and_their_ensemble_is_scored_and_nothing_twice(run, trained, arrow_root, tmp_path):
    patterns = f"{trained}/TSN/*/*.pt {trained}/CT-Net/*/*.pt"
    shown = evaluated(tmp_path, arrow_root, patterns, run, views="1x1 1x2")
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table.network.tolist() == ["TSN"] * 2 + ["CT-Net"] * 2 + ["TSN + CT-Net"] * 2
    assert table.views.tolist() == ["1 x 1", "1 x 2"] * 3
    assert table.frames.tolist() == ["4", "4", "8", "8", "4+8", "4+8"]
    assert table.top1[0] <= 50 and set(table.videos) == set(table.listed) == {32}
    assert (table.low <= table.top1).all() and (table.top1 <= table.high).all()
    assert table.gflops[1] == pytest.approx(2 * table.gflops[0]) and table.row.isna().all()
    assert "No row above is in Table 6" in shown.text and "TSN, 1 x 1, batches: 1 of 1" in shown.text
    kept = [Scores.load(path) for path in (tmp_path / "out" / "scores").iterdir()]
    assert sorted(scores.protocols[0].num_frames for scores in kept) == [4, 4, 8, 8]
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {"confusion.png", "class_accuracy.png", "confused.png"}

    again = evaluated(tmp_path, arrow_root, f"{trained}/TSN/*/*.pt", views="1x2 3x2", processes=processes(run)).text
    assert "TSN, 1 x 2: found in" in again and "TSN, 3 x 2: found" not in again and "1 x 1" not in again
    assert pd.read_csv(tmp_path / "out" / "table.csv").top1[0] == table.top1[1]
    assert len(list((tmp_path / "out" / "scores").iterdir())) == 5


def write_something_v1(root):
    """Three classes and three test videos of noise, in the publisher's layout."""
    root.mkdir()
    names = ["Dropping something", "Lifting something", "Turning something"]
    (root / "something-something-v1-labels.csv").write_text("\n".join(names))
    (root / "something-something-v1-validation.csv").write_text(
        "\n".join(f"{n};{name}" for n, name in enumerate(names))
    )
    rng = np.random.default_rng(0)
    for number in range(3):
        folder = root / "20bn-something-something-v1" / str(number)
        folder.mkdir(parents=True)
        for index in range(1, 5):
            Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8)).save(folder / f"{index:05d}.jpg")


def test_evaluate_takes_the_authors_files_and_names_table_6_s_rows(tmp_path):
    """On a synthetic list in the layout of Something-Something V1."""
    root = tmp_path / "data"
    write_something_v1(root)
    torch.manual_seed(0)
    for num_frames in (8, 16):
        path = tmp_path / f"TSM_segment{num_frames}_e45" / "ckpt.pth.tar"
        path.parent.mkdir()
        torch.save({"epoch": 45, "state_dict": Theirs(num_classes=3, num_frames=num_frames).state_dict()}, path)
    text, tables, *_ = evaluated(
        tmp_path,
        root,
        f"{tmp_path}/TSM_*/ckpt.pth.tar",
        data="something-v1",
        views="1x1",
        ensembles="8+16",
        overrides="compute.micro_batch=2",
    )
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table.row.tolist() == ["CT-Net 16", "CT-Net 8", "CT-Net_EN 8+16"] and set(table.videos) == {3}
    assert "Rows of Table 6 that were not run: CT-Net 12, CT-Net 24, CT-Net 8x1x2" in text
    assert "54.4" in "".join(tables) and "56.6" not in "".join(
        tables
    )  # the paper's 8+16 row, and none that was not run


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"checkpoints": "no/such/*.pt"}, "no checkpoint matches 'no/such/\\*.pt': `make study` trains two networks"),
        ({"ensembles": "8+12"}, "the ensemble 8\\+12 needs one network of 12 frames, and none has it"),
        ({"data": "something-v1", "root": ""}, "root must be the folder of 'something-v1'"),
        ({"size": 32}, "parameter 'size' was replaced: write overrides=\"data.size=...\""),
        ({"view": "1x1"}, "unknown parameter 'view': did you mean 'views'"),
        ({"overrides": "data.sampling=sparce"}, "unknown sampling 'sparce': did you mean 'sparse'"),
    ],
)
def test_a_bad_parameter_of_evaluate_is_refused_before_any_work(trained, arrow_root, tmp_path, parameters, text):
    given = {"patterns": f"{trained}/*/seed0/checkpoint.pt", "root": str(arrow_root), **parameters}
    given["patterns"] = given.pop("checkpoints", given["patterns"])
    with pytest.raises(ParameterError, match=text):
        evaluated(tmp_path, **given)
    assert not (tmp_path / "out").exists()
