import matplotlib.pyplot as plt

from ctlib.display import notebook


def test_figures_are_saved_as_png(tmp_path):
    figure, _ = plt.subplots()
    assert notebook.save(figure, tmp_path / "figures", "x") is figure
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["x.png"]
    plt.close(figure)
