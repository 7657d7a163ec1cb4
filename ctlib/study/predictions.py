"""The stored predictions: what networks answered, video by video, a byte each (predictions.npz).

`measured` is the table of `results.measured`. A measurement is one of its rows, as `itertuples` gives it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ctlib import files
from ctlib.config import ArrowConfig
from ctlib.data import arrow
from ctlib.data.actions import SETS, class_names
from ctlib.training.summaries import by_pair

NOT_READ = 255  # a video that could not be read
_ARRAYS = ("label", "videos", "tests", "predicted")  # of each test list


def read(tables_dir: str | Path) -> dict[str, pd.DataFrame]:
    """Test list -> one row per video: `label`, and the predicted classes of each test (`results.key`).

    Raises:
        ValueError: the file is damaged; it is named.
    """
    path = Path(tables_dir) / "predictions.npz"
    if not path.is_file():
        return {}
    predictions = {}
    try:
        with np.load(path, allow_pickle=False) as content:
            for name in map(str, content["lists"]):
                label, videos, tests, predicted = (content[f"{name}/{part}"] for part in _ARRAYS)
                predictions[name] = pd.DataFrame(predicted.T, videos, tests)
                predictions[name].insert(0, "label", label)
    except Exception as error:  # what damaged bytes raise is up to the reader
        raise ValueError(f"{path} is damaged ({files.one_line(error)})") from None
    return predictions


def write(tables_dir: str | Path, predictions: dict[str, pd.DataFrame]) -> None:
    content = {"lists": np.array(list(predictions))}
    for name, frame in predictions.items():
        tests = sorted(frame.columns.drop("label"))
        arrays = frame.label.to_numpy(), frame.index.to_numpy(str), np.array(tests), frame[tests].to_numpy().T
        content |= {f"{name}/{part}": array for part, array in zip(_ARRAYS, arrays, strict=True)}

    def save(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, **content)

    files.write_atomically(Path(tables_dir) / "predictions.npz", save)


def test_name(size: int, crops: int, clips: int) -> str:
    """A test in runs.csv."""
    return f"{size}px {crops}x{clips}"


def classes_digest(classes: Sequence[str]) -> str:
    """12 hex digits of the names of classes and their order."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()[:12]


def test_list(fingerprint: str) -> str:
    """The fingerprint of the test list, from that of both lists."""
    return fingerprint.split("-")[-1]


def of_measurement(predictions: dict[str, pd.DataFrame], measurement) -> pd.DataFrame:
    """`label` and `predicted` of the videos that were read, from the predictions of `read`."""
    frame = predictions[test_list(measurement.fingerprint)]
    test = test_name(measurement.size, measurement.crops, measurement.clips)
    frame = frame[["label", f"{measurement.run} {test}"]]
    return frame.set_axis(["label", "predicted"], axis=1)[(frame != NOT_READ).all(axis=1)].astype(int)


def agreement(tables_dir: str | Path, measured: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """How often only one of two rows is right, video by video: what their difference in accuracy consists of.

    Args:
        compared: of `comparisons.pairs`; those without a common block are left out.

    Returns:
        With the index of `compared`: `only_higher` and `only_lower`, percent of the test videos that only this row is
        right on, the mean over all common blocks. Their difference is that of the accuracies.
    """
    predictions, right = read(tables_dir), {}
    for one in measured[measured.table.isin(compared.table)].itertuples():
        frame = of_measurement(predictions, one)
        right.setdefault((one.table, one.row), {})[one.seed] = frame.label == frame.predicted
    shares = {}
    for index, pair in compared.iterrows():
        higher, lower = (right.get((pair.table, pair[side]), {}) for side in ("higher", "lower"))
        if common := higher.keys() & lower.keys():
            both = [pd.concat([higher[seed], lower[seed]], axis=1, join="inner").to_numpy() for seed in common]
            shares[index] = [100 * np.mean([(one[:, k] & ~one[:, 1 - k]).mean() for one in both]) for k in (0, 1)]
    return pd.DataFrame.from_dict(shares, orient="index", columns=["only_higher", "only_lower"])


def by_action(tables_dir: str | Path, measured: pd.DataFrame) -> pd.DataFrame:
    """What each row gets right of each action of Arrow of Time: the means over its blocks, in percent.

    Returns:
        One row per table, row and action (a name of `actions.ACTIONS`): `top1`, `right_pair` (whichever the direction)
        and `direction` (of the videos whose pair is right). Empty for other data, as the record's class names tell.
    """
    predictions, columns = read(tables_dir), ["top1", "right_pair", "direction"]
    known = {classes_digest(class_names(chosen)): chosen for chosen in SETS.values()}
    parts = [
        by_pair(of_measurement(predictions, one), known[one.classes_digest]).assign(table=one.table, row=one.row)
        for one in measured[measured.classes_digest.isin(known)].itertuples()
    ]
    if not parts:
        return pd.DataFrame(columns=["table", "row", "action", *columns])
    return pd.concat(parts).groupby(["table", "row", "action"], sort=False)[columns].mean().reset_index()


STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)  # of plainness


def by_plainness(tables_dir: str | Path, measured: pd.DataFrame, config: ArrowConfig) -> pd.DataFrame:
    """What each row gets right of the clips of Arrow of Time that are about as plain: the means over its blocks.

    Args:
        config: the data set of the study; measurements on another test list are left out.

    Returns:
        One row per table, row and step of plainness (`STEPS`): `plain`, the mean of the step's clips, `top1` (percent)
        and `videos`.
    """
    predictions, parts = read(tables_dir), []
    classes = classes_digest(class_names(config.actions))
    ours = measured[(measured.classes_digest == classes) & (measured.videos == config.val_clips)]
    plain = pd.Series({pair: arrow.plainness(config, "val", pair) for pair in range(config.val_clips // 2)})
    for one in ours.itertuples():
        frame = of_measurement(predictions, one)
        of_clip = plain[[int(arrow.pair_of(video)) for video in frame.index]].to_numpy()
        clips = pd.DataFrame({"plain": of_clip, "top1": 100.0 * (frame.label == frame.predicted).to_numpy()})
        step = clips.groupby(pd.cut(clips.plain, STEPS), observed=True)
        parts.append(step.mean().assign(videos=step.size(), table=one.table, row=one.row))
    columns = ["table", "row", "plain", "top1", "videos"]
    if not parts:
        return pd.DataFrame(columns=columns)
    means = pd.concat(parts).rename_axis("step").groupby(["table", "row", "step"], sort=False, observed=True)
    return means.mean().reset_index()[columns]
