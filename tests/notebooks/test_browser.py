"""An explorer as a reader meets it: JupyterLab in headless Chromium, cells run, a slider moved."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from ctlib.teaching import lesson1
from tests import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Generous, for a busy machine.
PATIENCE = 180

RUN_ALL = """async () => {
    const {commands, shell} = window.jupyterapp, panel = shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;  // else it asks which kernel
    commands.execute('notebook:run-all-cells').finally(() => { window.ran = true; });
}"""
CELLS = "() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
WITHOUT_OVERFLOW = """() => {
    const {clientWidth, scrollWidth} = document.querySelector('.jp-OutputArea .ct-explorer');
    return 200 < clientWidth && clientWidth < 390 && scrollWidth <= clientWidth;
}"""
SCROLL_TO = "index => window.jupyterapp.shell.currentWidget.content.scrollToItem(index, 'start')"


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium with an empty profile."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium to drive JupyterLab with: none of {', '.join(NAMES)} is on the PATH")
    alone = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
    alone += ("--disable-component-update", "--disable-sync", "--disable-quic", "--no-first-run")
    with api.sync_playwright() as drivers:
        try:
            browser = drivers.chromium.launch(executable_path=path, args=alone, timeout=1000 * PATIENCE)
        except api.Error as error:  # such as a stub that says how to install it
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        # Never closed: a Chromium that hung at its end once held up all tests. The driver's end kills it in time.
        yield browser


@contextmanager
def jupyterlab(folder: Path, own: Path):
    """The address of a JupyterLab on `folder`, with its settings, kernels and log in `own`."""
    kinds = "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR"
    environment = {**os.environ, **{kind: str(own / kind) for kind in kinds.split()}}
    news = own / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)  # else a question about news lies over the notebook
    (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0, "ServerApp.root_dir": folder,
        "ServerApp.open_browser": False, "ServerApp.allow_root": True, "IdentityProvider.token": "",
        "LabApp.expose_app_in_browser": True, "LabApp.extension_manager": "readonly",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    address, log = f"http://127.0.0.1:{port}", own / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        while not answers(f"{address}/api"):
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(url: str) -> bool:
    try:
        return "version" in json.load(urllib.request.urlopen(url, timeout=5))
    except OSError:
        return False


@pytest.mark.slow
def test_a_slider_changes_figure_and_numbers(chromium, tmp_path):
    folder, own = tmp_path / "notebooks", tmp_path / "own"
    folder.mkdir()
    lesson = nbformat.read(ROOT / "notebooks" / "learn" / "1_channel_tensorization.ipynb", 4)
    last = next(i for i, cell in enumerate(lesson.cells) if "shell.Explorer(" in cell.source)
    lesson.cells = lesson.cells[:3] + lesson.cells[last - 2 : last + 1]  # the rest is run in test_learn.py
    nbformat.write(lesson, folder / "lesson.ipynb")

    with jupyterlab(folder, own) as address:
        page = chromium.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{address}/lab/tree/lesson.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.evaluate(RUN_ALL)
        page.wait_for_function("window.ran")
        cells = page.evaluate(CELLS)
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
        assert all(cell["execution_count"] for cell in code)

        page.evaluate(SCROLL_TO, next(i for i, cell in enumerate(cells) if "shell.Explorer(" in cell["source"]))
        explorer = page.locator(".jp-OutputArea .ct-explorer")
        figure, numbers = explorer.locator(".widget-html img"), explorer.locator(".widget-vbox .widget-html")
        slider = explorer.locator(".widget-slider", has=page.get_by_text("C_1", exact=True)).locator(".noUi-handle")

        def shown(c_1: int) -> bytes:
            """Wait until the numbers are those of C = 128 = C_1 x C_2; the figure's bytes then."""
            expected = lesson1.tensorization(128, (c_1, -1), 1, num_frames=8, size=28)
            for value in expected.numbers.values():
                numbers.get_by_text(value, exact=True).first.wait_for()
            assert figure.get_attribute("alt") == expected.alt  # it was sent before the numbers
            # As text: handing over the bytes one by one once kept browser and driver busy for over an hour.
            return base64.b64decode(figure.get_attribute("src").removeprefix("data:image/png;base64,"), validate=True)

        before = shown(16)
        explorer.locator(".widget-play button").first.click()
        numbers.get_by_text("128 of 128", exact=True).wait_for()  # after both sub-operations
        explorer.locator(".widget-play button").nth(1).click()  # stop: back to 0 of them
        numbers.get_by_text("1 of 128", exact=True).wait_for()
        explorer.locator(".widget-slider", has=page.get_by_text("steps done", exact=True)).locator(
            ".noUi-handle"
        ).focus()
        page.keyboard.press("ArrowRight")
        assert shown(16) == before
        slider.focus()
        page.keyboard.press("ArrowRight")
        after = shown(32)
        assert before.startswith(b"\x89PNG") and after.startswith(b"\x89PNG") and before != after

        for _ in range(2):
            page.keyboard.press("ArrowLeft")
        numbers.get_by_text("Not possible").wait_for()  # 128 channels are no multiple of 12
        page.keyboard.press("ArrowRight")
        assert shown(16) == before

        explorer.scroll_into_view_if_needed()
        place, beside = figure.bounding_box(), numbers.bounding_box()
        assert place["x"] + place["width"] <= beside["x"] and explorer.bounding_box()["height"] < 700  # in one view
        pictures = Path(os.environ.get("CTLIB_SCREENSHOTS", tmp_path))
        pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=pictures / "jupyterlab.png")

        page.evaluate("window.jupyterapp.shell.collapseLeft()")
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_function(WITHOUT_OVERFLOW)
        assert figure.bounding_box()["y"] < numbers.bounding_box()["y"]  # one column
        page.screenshot(path=pictures / "jupyterlab_narrow.png")
