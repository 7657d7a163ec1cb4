import numpy as np
import pytest
import torch
from torch import nn

from ctlib import checkpoints, prediction
from ctlib.data import encoding, video
from ctlib.data.views import View
from ctlib.display import overlay
from ctlib.models import build_model, model_config


@pytest.fixture
def source(tmp_path):
    """Twelve grey frames, twice as wide as high."""
    encoding.write_video(tmp_path / "clip.mp4", np.full((12, 40, 80, 3), 120, dtype=np.uint8), fps=12)
    return tmp_path / "clip.mp4"


def trained(name, size):
    torch.manual_seed(0)
    model = build_model(model_config(name, num_classes=2, num_frames=2)).eval()
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([0.0, 50.0]))
        nn.init.constant_(model.fc.weight, 1.0)  # so that every position speaks for its class
    return checkpoints.Checkpoint(model, ("left", "right"), {}, View(2, size, size, "sparse"))


def test_heat_lies_on_the_crop_that_the_network_saw(source, tmp_path):
    network = trained("tsn_laptop", 64)
    scores = prediction.score(source, network, prediction.Windows(2))
    assert overlay.write(tmp_path / "out.mp4", scores, network) == ""
    frames = video.read_frames(tmp_path / "out.mp4", range(12))
    assert frames.shape == (12, 240 + overlay.BAR, 480, 3)
    colour = np.ptp(frames[:, :240].astype(int), axis=3)  # grey frames have none
    assert colour[:, :, :110].max() < 12 and colour[:, :, 370:].max() < 12
    assert colour[:, 20:220, 140:340].mean() > 30
    bars = frames[:, 240:].astype(int)
    assert bars.max() > 200 and abs(bars[0] - bars[5]).mean() < 5


def test_a_map_of_few_positions_is_no_tube(source, tmp_path):
    network = trained("tsn_quickstart", 48)
    scores = prediction.score(source, network)
    reason = overlay.write(tmp_path / "out.mp4", scores, network)
    assert reason == "no tube: the network's last map has 2 x 2 positions, too few to show where"
    frames = video.read_frames(tmp_path / "out.mp4", range(12))
    assert np.ptp(frames[:, :240].astype(int), axis=3).max() < 12


def test_between_frames_that_were_seen_heat_is_interpolated():
    maps, view = np.zeros((2, 4, 4)), View(2, 32, 64, "sparse")
    maps[1] = 1
    heat = [overlay._heat(maps, np.array([2, 6]), number, (64, 64), view) for number in range(9)]
    assert [round(float(one.max()), 3) for one in heat] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert heat[8][16:48, 16:48].min() == 1 and heat[8].sum() == 32 * 32


def test_a_label_that_is_too_long_is_cut():
    bar = overlay._bar("97 %  " + "letter after letter " * 20, 240)
    assert bar.shape == (overlay.BAR, 240, 3) and (bar[:, 236:] == 24).all() and bar.max() > 200
