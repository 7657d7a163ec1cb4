"""What the notebooks share: parameters checked before anything runs, progress, figures kept."""

import ast
import importlib.util
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure
from tqdm import tqdm

from ctlib import files
from ctlib.config import check_choice, check_type


class ParameterError(ValueError):
    """A parameter that a notebook cannot run with. Jupyter and papermill show its one line only."""

    def _render_traceback_(self) -> list[str]:
        return [f"ParameterError: {self}"]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what bad parameters raise (a wrong name, type, range or folder) into a `ParameterError`."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise ParameterError(str(error)) from None


def check_parameters() -> None:
    """Stop the notebook unless every parameter it was given is one that it has, of the right type.

    Call it in the first cell after the parameters. papermill only warns of a parameter that the
    notebook does not have and then runs the default; this names the nearest one that there is.

    Raises:
        ParameterError: an unknown parameter, or a value of the wrong type ("false" for a bool, say).
    """
    from IPython import get_ipython  # the command line uses this module too, and needs no Jupyter

    cells = get_ipython().user_ns["In"][:-1]
    with one_line_errors():
        _check(cells, get_ipython().user_ns)


def _check(cells: list[str], values: dict) -> None:
    """Check `values` against the last parameters cell among `cells` and what papermill put after it."""
    at = max((index for index, cell in enumerate(cells) if _declared(cell)), default=None)
    if at is None:
        raise ValueError("no parameters cell has run before this one: run the notebook from its first cell")
    declared = _declared(cells[at])
    for cell in cells[at + 1 :]:
        if cell.startswith("# Parameters"):  # papermill's injected cell
            for name in _assigned(cell):
                check_choice("parameter", name, declared)
    for name, kind in declared.items():
        check_type(name, values[name], kind)


def _declared(cell: str) -> dict[str, type]:
    """Names and types of a cell that does nothing but `name: type = literal`; else nothing."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return {}
    if not body or not all(isinstance(node, ast.AnnAssign) and node.value is not None for node in body):
        return {}
    return {node.target.id: eval(compile(ast.Expression(node.annotation), "", "eval")) for node in body}


def _assigned(cell: str) -> list[str]:
    return [target.id for node in ast.parse(cell).body if isinstance(node, ast.Assign) for target in node.targets]


def interactive() -> bool:
    """Whether a person runs this from a notebook: front ends say which cell they run.

    papermill and nbconvert do not, and bars would fill their logs. (The environment cannot tell: a
    notebook that calls papermill hands its own on.)
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)  # the terminal's IPython has none
    return kernel is not None and "cellId" in kernel.get_parent("shell").get("metadata", {})


class TrainingLog:
    """A training as its callbacks tell it, in numbers and in words: how far, how fast, how long still.

    Args:
        name: of the run.
        epochs: how many there will be.
        batch: clips a step.
        clock: seconds, from any beginning.
    """

    WINDOW = 20.0  # seconds, over which speed and loss are averaged
    POINTS = 512  # of the loss's curve at most: when there are as many, neighbours become one

    def __init__(self, name: str, epochs: int, batch: int, clock: Callable[[], float] = time.monotonic):
        self.name, self.epochs, self.batch, self.clock = name, epochs, batch, clock
        self.began = clock()
        self.rows: list[dict] = []  # the lines of the history
        self.found = 0  # how many of them an earlier, interrupted training left
        self.done = self.total = 0  # steps
        self.losses: list[tuple[float, float]] = []  # (epochs done, mean loss since the last point)
        self.step_seconds: float | None = None
        self._between: float | None = None  # seconds from an epoch's last step to the next one's first: the test
        self._window: deque[tuple[float, int, float]] = deque()  # (time, done, loss) of this epoch's last steps
        self._waiting: list[tuple[float, float]] = []  # the losses of the next point
        self._steps_a_point = 1

    def on_step(self, done: int, total: int, loss: float) -> None:
        now = self.clock()
        if self.done and not self._window:
            self._between = max(0.0, now - self._stepped - (self.step_seconds or 0.0))
        self.done, self.total, self._stepped = done, total, now
        self._window.append((now, done, loss))
        while len(self._window) > 2 and self._window[1][0] < now - self.WINDOW:
            self._window.popleft()
        since, first, _ = self._window[0]
        if done > first:
            self.step_seconds = (now - since) / (done - first)
        self._waiting.append((self.epochs * done / total, loss))
        if len(self._waiting) >= self._steps_a_point:
            self.losses.append(_mean(self._waiting))
            self._waiting.clear()
        if len(self.losses) == self.POINTS:
            self.losses = [_mean(pair) for pair in zip(self.losses[::2], self.losses[1::2], strict=True)]
            self._steps_a_point *= 2

    def on_epoch(self, row: dict) -> None:
        self.rows.append(row)
        if self.done == 0:
            self.found += 1
        else:
            self._between = self.clock() - self._stepped
            self._window.clear()

    @property
    def testing(self) -> bool:
        """Whether an epoch's steps are done and its line is yet to come."""
        return self.total > 0 and self.done * self.epochs >= (len(self.rows) + 1) * self.total

    @property
    def samples_a_second(self) -> float | None:
        return self.batch / self.step_seconds if self.step_seconds else None

    @property
    def seconds_between(self) -> float | None:
        """Seconds of an epoch that are not steps (testing, above all): the last ones, or what found epochs tell."""
        if self._between is None and self.found and self.step_seconds is not None:
            return max(0.0, self.rows[-1]["seconds"] - self.step_seconds * self.total / self.epochs)
        return self._between

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of the run, tests included once a test has been seen; None before the second step."""
        if self.step_seconds is None:
            return None
        tests = self.epochs - len(self.rows)
        return (self.total - self.done) * self.step_seconds + tests * (self.seconds_between or 0.0)

    def status(self) -> str:
        """Where the training is: epoch, step, loss, speed, time left."""
        if not self.total:
            return "starting"
        parts = [f"epoch {min(len(self.rows) + 1, self.epochs)} of {self.epochs}", f"step {self.done} of {self.total}"]
        if self._window:
            parts.append(f"loss {fmean(loss for _, _, loss in self._window):.3f}")
        if self.testing:
            parts.append("testing")
        elif self.samples_a_second is not None:
            parts.append(f"{self.samples_a_second:.3g} samples a second")
        if self.seconds_left is not None:
            parts.append(f"{'' if self.seconds_between is not None else 'over '}{_duration(self.seconds_left)} left")
        return " · ".join(parts)

    def line(self, row: dict) -> str:
        """An epoch in one line."""
        number = f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        return f"{self.name:>6}  {number}  {_measures(row)}  {row['seconds']:.0f} s"

    def found_line(self) -> str:
        """The epochs of an earlier training in one line, with the measures of the last."""
        return f"{self.name:>6}  found {self.found} of {self.epochs} epochs  {_measures(self.rows[-1])}"

    def summary(self, ended: str) -> str:
        """What there is to say in the end; `ended` is finished, stopped or failed."""
        if not self.done:
            return f"{self.name}: {ended} without a step"
        found = f" ({self.found} found)" if self.found else ""
        epochs = f"{len(self.rows)} of {self.epochs} epochs{found}"
        text = (
            f"{self.name}: {ended}, step {self.done} of {self.total}, {epochs}, {_duration(self.clock() - self.began)}"
        )
        return f"{text}\n{self.line(self.rows[-1])}" if self.rows else text


def _mean(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    return tuple(map(fmean, zip(*points, strict=True)))


def _measures(row: dict) -> str:
    return f"loss {row['loss']:.3f}  train {row['train_top1']:5.1f} %  test {row['top1']:5.1f} %"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))  # 0:04:10


class Progress:
    """Progress for a reader: a live panel where a person has the notebook open, a line an epoch everywhere else.

        with notebook.Progress(name, epochs, batch, on_stop=stop) as progress:
            train(config, folder, on_step=progress.on_step, on_epoch=progress.on_epoch)

    The panel leaves a line or two of text in its place, so that a saved notebook shows no dead widget.

    Args:
        name: of the run, in front of each line.
        epochs: how many there will be.
        batch: clips a step.
        on_stop: what the panel's button calls, from another thread; training is then to end as if interrupted.
        bound: percent, a line in the panel that no frame-averaging network passes in testing.
    """

    def __init__(
        self,
        name: str,
        epochs: int,
        batch: int,
        on_stop: Callable[[], None] | None = None,
        bound: float | None = None,
    ):
        self.log = TrainingLog(name, epochs, batch)
        self._on_stop, self._bound = on_stop, bound
        self._panel = None

    def __enter__(self) -> "Progress":
        if interactive() and importlib.util.find_spec("ipywidgets"):
            from ctlib.display import widgets

            self._panel = widgets.TrainingPanel(self.log, self._on_stop, self._bound)
            self._panel.show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error, traceback) -> None:
        if self._panel is not None:
            stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._panel.close(self.log.summary("finished" if kind is None else "stopped" if stopped else "failed"))

    @property
    def lines(self) -> int:
        """Epochs that this training ran; none if the run was found finished."""
        return len(self.log.rows) - self.log.found

    def on_step(self, done: int, total: int, loss: float) -> None:
        first = self.log.done == 0
        self.log.on_step(done, total, loss)
        if self._panel is not None:
            self._panel.refresh()
        elif first and self.log.found:
            print(self.log.found_line(), flush=True)

    def on_epoch(self, row: dict) -> None:
        self.log.on_epoch(row)
        if self._panel is not None:
            self._panel.refresh()
        elif self.log.done:
            print(self.log.line(row), flush=True)


def counting(what: str) -> Callable[[int, int], None]:
    """A callback (done, total) that shows a bar where the notebook is open, else a line at each quarter."""
    bar = None
    quarter = 0

    def show(done: int, total: int) -> None:
        nonlocal bar, quarter
        if interactive():
            # in text: a bar that is a widget would be dead in the saved notebook
            bar = bar or tqdm(total=total, desc=what, mininterval=0.5, file=sys.stdout)
            bar.update(done - bar.n)
            if done == total:
                bar.close()
        elif done * 4 // total > quarter:
            quarter = done * 4 // total
            print(f"{what}: {done} of {total}", flush=True)

    return show


def save(figure: Figure, folder: str | Path, name: str, dpi: int = 150) -> Figure:
    """Save a figure as `folder`/`name`.png and return it, so that the notebook shows it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=dpi, bbox_inches="tight")
    return figure


def project_path(path: str | Path) -> Path:
    """A path as parameters give it: absolute, or relative to the project's root.

    papermill runs a notebook where it was called, JupyterLab in the notebook's folder: with `files.project_root`
    both mean the same place.
    """
    return files.project_root() / Path(path).expanduser()


def given_files(paths: str) -> list[Path]:
    """Files as a parameter names them: paths between spaces, one with a space in it in quotes, as `project_path`.

    Raises:
        FileNotFoundError: one that is not there.
    """
    found = [project_path(path) for path in shlex.split(paths)]
    for path in found:
        if not path.exists():
            raise FileNotFoundError(f"no file {path}")
    return found
