"""Progress of what takes long: live where a person has the notebook open, else a few lines of text."""

import importlib.util
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from statistics import fmean

from tqdm import tqdm


def interactive() -> bool:
    """Whether a person runs this cell from a front end such as JupyterLab.

    Front ends send the id of the cell that they run; papermill and nbconvert do not. (The environment cannot say: a
    notebook that calls papermill passes its own on.)
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)  # the terminal's IPython has none
    return kernel is not None and "cellId" in kernel.get_parent("shell").get("metadata", {})


class TrainingLog:
    """The progress of a run in training, from its callbacks: steps, speed, time left.

    Args:
        name: of the run.
        epochs: of the whole run.
        batch: clips per step.
        clock: returns the time in seconds.
    """

    WINDOW = 50  # steps over which speed and loss are averaged

    def __init__(self, name: str, epochs: int, batch: int, clock: Callable[[], float] = time.monotonic):
        self.name, self.epochs, self.batch, self.clock = name, epochs, batch, clock
        self.began = clock()
        self.rows: list[dict] = []  # of the history
        self.resumed = 0  # rows of an earlier, interrupted training; they arrive before the first step
        self.steps_done = self.steps_total = 0
        self.losses: list[tuple[float, float]] = []  # (epochs done, loss) of each step
        self.step_seconds: float | None = None
        self._test_seconds: float | None = None
        self._recent: deque[tuple[float, float]] = deque(maxlen=self.WINDOW)  # (time, loss) of this epoch's last steps

    def on_step(self, done: int, total: int, loss: float) -> None:
        self.steps_done, self.steps_total = done, total
        self.losses.append((self.epochs * done / total, loss))
        self._recent.append((self.clock(), loss))
        if len(self._recent) > 1:
            self.step_seconds = (self._recent[-1][0] - self._recent[0][0]) / (len(self._recent) - 1)

    def on_epoch(self, row: dict) -> None:
        self.rows.append(row)
        if not self.steps_done:
            self.resumed += 1
        elif self._recent:
            if _is_tested(row):
                self._test_seconds = self.clock() - self._recent[-1][0]
            self._recent.clear()

    @property
    def testing(self) -> bool:
        """Whether an epoch's steps are done and its row has not come yet."""
        return self.steps_total > 0 and self.steps_done * self.epochs >= (len(self.rows) + 1) * self.steps_total

    @property
    def samples_per_second(self) -> float | None:
        return self.batch / self.step_seconds if self.step_seconds else None

    @property
    def test_seconds(self) -> float | None:
        """Seconds of an epoch's test: of the last one, or estimated from the rows of an earlier training.

        None before the first test. All epochs after a tested one are tested too.
        """
        if self._test_seconds is not None or self.step_seconds is None:
            return self._test_seconds
        if self.resumed and _is_tested(self.rows[-1]):
            return max(0.0, self.rows[-1]["seconds"] - self.step_seconds * self.steps_total / self.epochs)
        return None

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of the run, with tests once one was seen; None before the second step."""
        if self.step_seconds is None:
            return None
        tests = self.epochs - len(self.rows)
        return (self.steps_total - self.steps_done) * self.step_seconds + tests * (self.test_seconds or 0.0)

    def status(self) -> str:
        """Where the training is: epoch, step, loss, speed, time left."""
        if not self.steps_total:
            return "starting"
        epoch = min(len(self.rows) + 1, self.epochs)
        parts = [f"epoch {epoch} of {self.epochs}", f"step {self.steps_done} of {self.steps_total}"]
        if self._recent:
            parts.append(f"loss {fmean(loss for _, loss in self._recent):.3f}")
        if self.testing:
            parts.append("testing")
        elif self.samples_per_second is not None:
            parts.append(f"{self.samples_per_second:.3g} samples per second")
        if self.seconds_left is not None:
            parts.append(f"{'' if self.test_seconds is not None else 'at least '}{_duration(self.seconds_left)} left")
        return " · ".join(parts)

    def line(self, row: dict) -> str:
        """An epoch in one line."""
        number = f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        return f"{self.name:>6}  {number}  {_measures(row)}  {row['seconds']:.0f} s"

    def resumed_line(self) -> str:
        """The epochs of an earlier training in one line, with the measures of the last."""
        return f"{self.name:>6}  resumed after {self.resumed} of {self.epochs} epochs  {_measures(self.rows[-1])}"

    def summary(self, ended: str) -> str:
        """The training in one or two lines; `ended` is finished, stopped or failed."""
        if not self.steps_done:
            return f"{self.name}: {ended} without a step"
        earlier = f" ({self.resumed} from an earlier training)" if self.resumed else ""
        epochs = f"{len(self.rows)} of {self.epochs} epochs{earlier}"
        seconds = _duration(self.clock() - self.began)
        text = f"{self.name}: {ended}, step {self.steps_done} of {self.steps_total}, {epochs}, {seconds}"
        return f"{text}\n{self.line(self.rows[-1])}" if self.rows else text


def _is_tested(row: dict) -> bool:
    return not math.isnan(row["top1"])


def _measures(row: dict) -> str:
    trained = f"loss {row['loss']:.3f}  train {row['train_top1']:5.1f} %"
    return f"{trained}  test {row['top1']:5.1f} %" if _is_tested(row) else trained


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))  # 0:04:10


class Progress:
    """Show a training: a live panel where a person has the notebook open, one line per epoch elsewhere.

        with Progress(name, epochs, batch, on_stop=stop) as progress:
            train(config, folder, on_step=progress.on_step, on_epoch=progress.on_epoch)

    At the end text replaces the panel, so that a saved notebook shows no dead widget.

    Args:
        name, epochs, batch: as in `TrainingLog`.
        on_stop: called by the panel's button, from another thread; training must then end as if interrupted.
        bound: the accuracy that no average over frames can pass, percent; a line in the panel.
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
            self._panel.close(self.log.summary("stopped" if stopped else "failed" if kind else "finished"))

    @property
    def epochs_run(self) -> int:
        """Epochs of this training; 0 if the run was already finished."""
        return len(self.log.rows) - self.log.resumed

    def on_step(self, done: int, total: int, loss: float) -> None:
        first = self.log.steps_done == 0
        self.log.on_step(done, total, loss)
        if self._panel is not None:
            self._panel.refresh()
        elif first and self.log.resumed:
            print(self.log.resumed_line(), flush=True)

    def on_epoch(self, row: dict) -> None:
        self.log.on_epoch(row)
        if self._panel is not None:
            self._panel.refresh()
        elif self.log.steps_done:
            print(self.log.line(row), flush=True)


def counting(what: str) -> Callable[[int, int], None]:
    """A callback (done, total): a bar in a notebook that a person has open and on a terminal, else a line per quarter.

    What was done before its first call does not count for the speed.
    """
    bar, quarter = None, 0

    def show(done: int, total: int) -> None:
        nonlocal bar, quarter
        if interactive() or sys.stderr.isatty():
            if bar is None:  # in text: a widget would be dead in the saved notebook
                file = sys.stdout if interactive() else sys.stderr
                bar = tqdm(desc=what, total=total, initial=done, mininterval=0.5, file=file)
            bar.update(done - bar.n)
            if done == total:
                bar.close()
        elif total and done * 4 // total > quarter:
            quarter = done * 4 // total
            print(f"{what}: {done} of {total}", flush=True)

    return show
