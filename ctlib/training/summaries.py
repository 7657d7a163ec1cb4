"""Tables of what records and scores hold: accuracies with intervals, class by class, and rows like those of Table 6.

`predictions` are those of `Scores.predictions` or `RunFolder.predictions`, `data` is the name of the data set, and
`classes` are names in label order.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ctlib import paper
from ctlib.config import parse_words
from ctlib.data.arrow import pair_of
from ctlib.data.catalog import Samples
from ctlib.data.clips import SKIPPED
from ctlib.training.evaluate import Protocol, Scores
from ctlib.training.records import RunFolder
from ctlib.training.statistics import Interval, grouped_interval, proportion_interval


def accuracy(predictions: pd.DataFrame, data: str) -> Interval:
    """Top-1 over the videos that were read, in percent, with its interval over the choice of videos.

    It is Wilson's, which takes videos as independent. Of Arrow of Time it is over mirrored pairs, as their two videos
    are one piece of evidence. It does not cover another training.
    """
    read = predictions[predictions.label != SKIPPED]
    right = read.label == read.predicted
    if data != "arrow":
        return proportion_interval(int(right.sum()), len(right))
    interval = grouped_interval(right.to_numpy(), [pair_of(source) for source in read.source])
    return interval._replace(low=max(0.0, interval.low), high=min(100.0, interval.high))


def right_pair(predictions: pd.DataFrame) -> float:
    """Percent of the videos of Arrow of Time whose pair was right, whichever the direction."""
    return 100 * float((predictions.label // 2 == predictions.predicted // 2).mean())


def run_summary(result: dict, predictions: pd.DataFrame) -> pd.Series:
    """A finished run: its accuracies, and how it was tested and trained."""
    top1 = accuracy(predictions, result["data"])
    clip = f"{result['num_frames']} frames of {result['size']} x {result['size']}"
    pair = {"right pair, %": f"{right_pair(predictions):.1f}"} if result["data"] == "arrow" else {}
    rows = {
        "top-1, %": f"{top1.mean:.1f}",
        "95 % interval": f"{top1.low:.1f} to {top1.high:.1f}",
        **pair,
        "top-5, %": f"{result['top5']:.1f}",
        "tested on": f"{result['videos'] - result['skipped']} of {result['listed']} listed videos of {result['data']}",
        "clip": f"{clip}, {result['clips']} clip(s) x {result['crops']} crop(s)",
        "trained on": f"{result['train_videos']} of {result['train_listed']} listed videos",
        "epochs": result["epochs"],
        "seed": result["seed"],
        "seconds": f"{result['seconds']:.0f} in {len(result['sessions'])} session(s)",
        "computed by": f"{result['processes']} process(es) on {result['hardware']}, {result['precision']}",
        "peak memory, MB": f"{result['peak_memory_mb']:,}",
    }
    return pd.Series(rows, name=result["name"])


def by_class(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row per class: `class`, `videos` (that were read), `top1` (percent; missing where there are no videos)."""
    read = predictions[predictions.label != SKIPPED]
    right = 100.0 * (read.label == read.predicted)
    grouped = right.groupby(read.label).agg(["size", "mean"]).reindex(range(len(classes)))
    videos = grouped["size"].fillna(0).astype(int)
    return pd.DataFrame({"class": list(classes), "videos": videos, "top1": grouped["mean"]}).rename_axis("label")


def by_pair(predictions: pd.DataFrame, actions: Sequence[str]) -> pd.DataFrame:
    """One row per action of Arrow of Time: class 2j is action j, class 2j + 1 the same played backwards.

    Args:
        actions: their names, in order.

    Returns:
        `action`, `videos` (that were read), and in percent `top1`, `right_pair` (whichever the direction) and
        `direction` (of the videos whose pair is right; missing where there are none).
    """
    read = predictions[predictions.label != SKIPPED]
    right, pair = read.label == read.predicted, read.label // 2 == read.predicted // 2
    marked = pd.DataFrame({"top1": right, "right_pair": pair, "direction": right.astype(float).where(pair)})
    grouped = marked.groupby(read.label // 2)
    table = (100 * grouped.mean()).reindex(range(len(actions)))
    table.insert(0, "videos", grouped.size().reindex(table.index, fill_value=0))
    table.insert(0, "action", list(actions))
    return table.rename_axis(None)


def most_confused(predictions: pd.DataFrame, classes: Sequence[str], most: int = 10) -> pd.DataFrame:
    """The pairs of classes that most videos were confused in, at most so many.

    Returns:
        One row per pair, the most videos first and then the largest share: `true` and `confused_with` (names),
        `videos`, `share` (of the true class's videos, percent), `examples` (rows of `predictions`, the most confident
        first).
    """
    read = predictions[predictions.label != SKIPPED]
    wrong = read[read.label != read.predicted].sort_values("confidence", ascending=False, kind="stable")
    totals = read.label.value_counts()
    rows = [
        {
            "true": classes[label],
            "confused_with": classes[predicted],
            "videos": len(part),
            "share": 100 * len(part) / totals[label],
            "examples": part.index.tolist(),
        }
        for (label, predicted), part in wrong.groupby(["label", "predicted"])
    ]
    table = pd.DataFrame(rows, columns=["true", "confused_with", "videos", "share", "examples"])
    return table.sort_values(["videos", "share"], ascending=False, kind="stable", ignore_index=True)[:most]


def run_labels(table: pd.DataFrame) -> list[str]:
    """The label of each run of `records.load` in a figure: its name, with its seed where names repeat."""
    repeated = table.name.duplicated(keep=False)
    labels = zip(table.name, table.seed, repeated, strict=True)
    return [f"{name}, seed {seed}" if again else name for name, seed, again in labels]


PROTOCOL = ("data", "fingerprint", "sampling", "num_frames", "size", "short_side", "clips", "crops")


def refuse_mixed_protocols(runs: pd.DataFrame) -> None:
    """Raise ValueError unless all runs of `records.load` were tested alike. It names what differs, in which runs."""
    _refuse_differing(runs, PROTOCOL, "the runs", "draw runs of one protocol")


def averaged(runs: pd.DataFrame) -> pd.DataFrame:
    """The mean over the seeds of runs that have one name.

    Args:
        runs: of `records.load`.

    Returns:
        One row per name: `name`, `top1` (mean, percent), `std` (sample standard deviation over the seeds; missing with
        one), `seeds` (how many), and of the first run `gflops`, `params`, `frames`, `size`, `videos` and `folder`.

    Raises:
        ValueError: different protocols, one name for runs that differ in more than the seed, or a seed twice.
    """
    if runs.empty:
        return pd.DataFrame(columns=["name", "top1", "std", "seeds", "frames", *_OF_NETWORK])
    refuse_mixed_protocols(runs)
    settings = [name for name in runs if name.startswith(("model.", "recipe.", "arrow.", "data.flip"))]
    for name, of_name in runs.groupby("name", sort=False):
        _refuse_differing(of_name, [*settings, "precision", "micro_batch"], f"the runs {name!r}", "give them names")
        if of_name.seed.duplicated().any():
            raise ValueError(f"the runs {name!r} have seed {of_name.seed[of_name.seed.duplicated()].iloc[0]} twice")
    points = runs.groupby("name", sort=False).agg(
        top1=("top1", "mean"),
        std=("top1", "std"),
        seeds=("seed", "nunique"),
        frames=("num_frames", "first"),
        **{column: (column, "first") for column in _OF_NETWORK},
    )
    return points.reset_index()


_OF_NETWORK = ("gflops", "params", "size", "videos", "folder")


def _refuse_differing(runs: pd.DataFrame, columns: Sequence[str], which: str, instead: str) -> None:
    differing = []
    for column in columns:
        names = runs.name.groupby(runs[column].astype(str), sort=False).unique()
        if len(names) > 1:
            values = "; ".join(f"{value} in {', '.join(runs_of[:3])}" for value, runs_of in names.items())
            differing.append(f"{column} ({values})")
    if differing:
        raise ValueError(f"{which} differ in {', '.join(differing)}: {instead}")


def checkpoint_names(paths: Sequence[Path]) -> list[str]:
    """A name for the network of each checkpoint: from the record beside it, else the file's or the folder's.

    Names that would repeat get their seeds, and after that their paths.
    """
    others = [path for path in paths if not _recorded(path)]
    choices = [path.name for path in others], [path.parent.name for path in others]
    unique = next((names for names in choices if len(set(names)) == len(names)), list(map(str, others)))
    table = []
    for path in paths:
        config = RunFolder(path.parent).config() if _recorded(path) else None
        table.append((config.name, config.seed) if config else (unique[others.index(path)], ""))
    names = run_labels(pd.DataFrame(table, columns=["name", "seed"]))
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def _recorded(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of a run folder."""
    folder = RunFolder(checkpoint.parent)
    return checkpoint == folder.checkpoint and (folder.path / "config.json").is_file()


# Table 6: views and ensembles.


def parse_views(text: str) -> tuple[tuple[int, int], ...]:
    """Views as Table 6 writes them, crops x clips ("1x1 1x2 3x2"), as (crops, clips).

    Raises:
        ValueError: anything else, none, or views twice.
    """

    def view(word: str) -> tuple[int, int]:
        if not re.fullmatch(r"[13]x[1-9]\d*", word):
            raise ValueError
        return tuple(map(int, word.split("x")))

    return parse_words(text, view, "views must be crops x clips, each once and with 1 or 3 crops, as in '1x1 3x2'")


def ensembles(text: str, frames: dict[str, int]) -> dict[str, list[str]]:
    """The networks of the ensembles asked for.

    Args:
        text: ensembles separated by spaces: "all", or numbers of frames as Table 6 writes them, "8+16".
        frames: name of a network -> T.

    Returns:
        Name of the ensemble -> names of its networks, two or more; "all" of one network is none.

    Raises:
        ValueError: something else, or a number of frames that no network has, or more than one does.
    """
    chosen = {}
    for word in text.split():
        counts = word.split("+")
        if word == "all":
            members = list(frames)
        elif re.fullmatch(r"\d+(\+\d+)+", word) and len(set(counts)) == len(counts):
            members = [_only_one(word, int(count), frames) for count in counts]
        else:
            raise ValueError(f"an ensemble is 'all' or different numbers of frames, as in '8+16', got {word!r}")
        if len(members) > 1:
            chosen[" + ".join(members)] = members
    return chosen


def _only_one(ensemble: str, count: int, frames: dict[str, int]) -> str:
    matches = [name for name in frames if frames[name] == count]
    if len(matches) != 1:
        has = f"{len(matches)} have ({', '.join(matches)})" if matches else "none has"
        raise ValueError(f"the ensemble {ensemble} needs one network of {count} frames, and {has} it")
    return matches[0]


def table_6_row(protocols: Sequence[Protocol]) -> str:
    """The row of Table 6 for a network, or for an ensemble of several with the same views."""
    frames, first = _frames(protocols), protocols[0]
    views = "" if first.views == 1 else f"x{first.crops}x{first.clips}"
    if len(protocols) == 1:
        return f"CT-Net {frames}{views}"
    return f"CT-Net_EN ({frames}){views}" if views else f"CT-Net_EN {frames}"


def _frames(protocols: Sequence[Protocol]) -> str:
    return "+".join(map(str, sorted(protocol.num_frames for protocol in protocols)))


def tested(scores: dict[str, list[Scores]], samples: Samples, data: str) -> pd.DataFrame:
    """What was scored, in the form of Table 6: one row per network or ensemble, and views.

    Args:
        scores: name of a network -> its scores of the list, one per protocol.

    Returns:
        - `network`, `frames`, `views` (crops x clips), `size` (pixels), `precision`
        - `gflops`: of all views and networks
        - `top1` with its 95 % interval from `low` to `high`, and `top5`: percent
        - `videos` (that were read), `listed`
        - `row`: the name in Table 6, empty where the network is not the paper's
    """
    rows = []
    for network, parts in scores.items():
        for part in parts:
            protocols = part.protocols
            interval = accuracy(part.predictions(samples), data)
            published = all(protocol.model == "ctnet_r50" for protocol in protocols)
            rows.append(
                {
                    "network": network,
                    "frames": _frames(protocols),
                    "views": f"{protocols[0].crops} x {protocols[0].clips}",
                    "size": " and ".join(str(size) for size in sorted({protocol.size for protocol in protocols})),
                    "gflops": sum(protocol.views * protocol.gflops for protocol in protocols),
                    "top1": part.topk(1),
                    "low": interval.low,
                    "high": interval.high,
                    "top5": part.topk(5),
                    "videos": len(part.labels) - part.skipped,
                    "listed": samples.listed,
                    "precision": " and ".join(sorted({protocol.precision for protocol in protocols})),
                    "row": table_6_row(protocols) if published else "",
                }
            )
    return pd.DataFrame(rows)


def published_6(data: str, rows: Sequence[str]) -> pd.DataFrame:
    """Table 6 as the paper prints it, for one of its two data sets: the authors' own training, at 256 x 256.

    Returns:
        `frames`, `views`, `gflops`, `top1` and `top5` as in `tested`, and `run`: whether the row is among `rows`. It is
        indexed by row, and empty for a data set that the table is not about.
    """
    table = paper.table("6")
    version = {"something-v1": "v1", "something-v2": "v2"}.get(data)
    if version is None:
        return pd.DataFrame(columns=["frames", "views", "gflops", "top1", "top5", "run"]).astype({"run": bool})
    views = table.crops.astype(str) + " x " + table.clips.astype(str)
    table = table.assign(views=views, run=table.index.isin(rows)).rename(
        columns={"gflops_total": "gflops", f"top1_{version}": "top1", f"top5_{version}": "top5"}
    )
    return table[["frames", "views", "gflops", "top1", "top5", "run"]]
