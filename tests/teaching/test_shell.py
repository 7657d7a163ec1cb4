from io import BytesIO

import ipywidgets
import pytest
from PIL import Image

from ctlib.teaching import lesson1, lesson2, shell


def test_an_animation_has_one_picture_per_view():
    moving = shell.animated([lesson2.interaction(2, after) for after in range(2)])
    assert Image.open(BytesIO(moving.gif)).n_frames == 2


class TestExplorer:
    def explorer(self):
        return shell.Explorer(
            lambda c_1, after: lesson1.tensorization(12, (c_1, -1), after),
            c_1=ipywidgets.IntSlider(4, 1, 12),
            after=ipywidgets.IntSlider(1, 0, 2),
        )

    def test_a_move_redraws_figure_and_numbers(self):
        explorer = self.explorer()
        before, text = explorer.image.value, explorer.text.value
        assert 'src="data:image/png;base64,iVBOR' in before and "12 = 4 x 3" in text
        explorer.controls["c_1"].value = 6
        assert explorer.image.value != before and "12 = 6 x 2" in explorer.text.value
        assert 'alt="Grid of 12 channels as 6 x 2;' in explorer.image.value

    def test_an_impossible_setting_shows_its_reason_and_the_picture_stays(self):
        explorer = self.explorer()
        before = explorer.image.value
        explorer.controls["c_1"].value = 5
        assert "Not possible" in explorer.text.value and "5 does not divide" in explorer.text.value
        assert explorer.image.value == before
        explorer.controls["c_1"].value = 3
        assert "Not possible" not in explorer.text.value

    @pytest.mark.parametrize("slider", [ipywidgets.IntSlider(2, 1, 4), ipywidgets.SelectionSlider(options=[1, 3, 4])])
    def test_a_play_button_moves_its_slider_from_end_to_end(self, slider):
        view = lesson1.tensorization(12, (4, -1), 1)
        seen = []
        button = shell.Explorer(lambda time: seen.append(time) or view, "time", time=slider).play
        button.value = button.max
        button.value = button.min
        assert seen[1:] == [4, 1]

    def test_its_static_picture_has_a_text_alternative(self, monkeypatch):
        shown = []
        monkeypatch.setattr(shell, "display", lambda data, metadata, raw: shown.append((data, metadata)))
        self.explorer().show()
        ((data, metadata),) = shown
        assert "application/vnd.jupyter.widget-view+json" in data and data["image/png"].startswith("iVBOR")
        assert metadata["image/png"]["alt"].startswith("Grid of 12 channels")


def test_a_parameter_below_its_minimum_is_named():
    shell.check_minimum(size=(4, 4), epochs=(2, 1))
    with pytest.raises(ValueError, match="size must be at least 4, got 3"):
        shell.check_minimum(epochs=(1, 1), size=(3, 4))
