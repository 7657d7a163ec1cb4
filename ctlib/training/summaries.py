"""What records and scores say: accuracies with their intervals, and Table 6 of whatever was scored."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy import stats

from ctlib import paper
from ctlib.data.arrow import pair_of
from ctlib.data.catalog import Samples
from ctlib.data.clips import SKIPPED
from ctlib.training import records as runs
from ctlib.training.evaluate import Protocol, Scores, interval


class ArrowAccuracy(NamedTuple):
    """How a network did on Arrow of Time, in percent."""

    top1: float
    half: float  # of the 95 % interval of top1, over mirrored pairs
    right_pair: float  # the right pair, whichever direction


def arrow_accuracy(predictions: pd.DataFrame) -> ArrowAccuracy:
    """Read a run's predictions on Arrow of Time (`runs.RunFolder.predictions`).

    The two videos of a mirrored pair are one piece of evidence, so the interval is over pairs.
    """
    right = predictions.label == predictions.predicted
    top1, half = interval(right.to_numpy(), [pair_of(source) for source in predictions.source])
    return ArrowAccuracy(top1, half, 100 * float((predictions.label // 2 == predictions.predicted // 2).mean()))


def told(result: dict, predictions: pd.DataFrame) -> str:
    """What a run found, and under which protocol, in a few lines."""
    low, high = top1_interval(predictions, result["data"])
    over = "the mirrored pairs" if result["data"] == "arrow" else "the test videos"
    lines = [
        f"{result['name']}, seed {result['seed']}: top-1 {result['top1']:.1f} % ({low:.1f} to {high:.1f} %: 95 % "
        f"interval over {over}), top-5 {result['top5']:.1f} %"
    ]
    if result["data"] == "arrow":
        right_pair = arrow_accuracy(predictions).right_pair
        lines.append(f"  right pair, whichever direction: {right_pair:.1f} %; made data, and no benchmark")
    skipped = f", {result['skipped']} of them not read" if result["skipped"] else ""
    lines += [
        f"  on {result['videos']} of {result['listed']} listed test videos of {result['data']}{skipped}, "
        f"{result['num_frames']} frames of {result['size']} x {result['size']}, {result['clips']} clip(s) x "
        f"{result['crops']} crop(s)",
        f"  trained on {result['train_videos']} of {result['train_listed']} listed videos for {result['epochs']} "
        f"epochs: {result['seconds']:.0f} s in {len(result['sessions'])} session(s), {result['processes']} process(es) "
        f"on {result['hardware']}, {result['precision']}, at most {result['peak_memory_mb']:,} MB",
    ]
    return "\n".join(lines)


def run_labels(table: pd.DataFrame) -> list[str]:
    """What each run of `runs.load` is called in a figure: its name, with its seed where names repeat."""
    repeated = table.name.duplicated(keep=False)
    return [
        f"{name}, seed {seed}" if again else name
        for name, seed, again in zip(table.name, table.seed, repeated, strict=True)
    ]


def top1_interval(predictions: pd.DataFrame, data: str) -> tuple[float, float]:
    """The ends of the 95 % interval of top-1 accuracy over the videos that were read, in percent.

    Wilson's, which takes videos as independent; of Arrow of Time, over mirrored pairs (`evaluate.interval`). How
    another training would have come out is no part of it.

    Args:
        predictions: columns source, label and predicted.
        data: name of the data set.
    """
    read = predictions[predictions.label != SKIPPED]
    right = read.label == read.predicted
    if data == "arrow":
        middle, half = interval(right.to_numpy(), [pair_of(source) for source in read.source])
        return max(0.0, middle - half), min(100.0, middle + half)
    low, high = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return 100 * low, 100 * high


def checkpoint_names(paths: Sequence[Path]) -> list[str]:
    """What the networks of checkpoints are called: as the records beside them say, else by file or by folder.

    Names that would repeat get their seeds, and after that their paths.
    """
    others = [path for path in paths if not _recorded(path)]
    called = next(
        (
            names
            for names in ([p.name for p in others], [p.parent.name for p in others])
            if len(set(names)) == len(names)
        ),
        list(map(str, others)),
    )
    table = []
    for path in paths:
        config = runs.RunFolder(path.parent).config() if _recorded(path) else None
        table.append((config.name, config.seed) if config else (called[others.index(path)], ""))
    names = run_labels(pd.DataFrame(table, columns=["name", "seed"]))
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def _recorded(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of a run folder."""
    folder = runs.RunFolder(checkpoint.parent)
    return checkpoint == folder.checkpoint and (folder.path / "config.json").is_file()


def ensembles(text: str, frames: dict[str, int]) -> dict[str, list[str]]:
    """Which networks make the ensembles asked for.

    Args:
        text: ensembles separated by spaces: "all", or numbers of frames as Table 6 writes them, "8+16".
        frames: name of a network -> T.

    Returns:
        What the ensemble is called -> the names of its networks, two or more; "all" of one network is none.

    Raises:
        ValueError: something else, or a number of frames that no network has, or more than one does.
    """
    found = {}
    for word in text.split():
        if word == "all":
            members = list(frames)
        elif re.fullmatch(r"\d+(\+\d+)+", word) and len(set(word.split("+"))) == len(word.split("+")):
            members = []
            for count in map(int, word.split("+")):
                having = [name for name in frames if frames[name] == count]
                if len(having) != 1:
                    has = f"{len(having)} have ({', '.join(having)})" if having else "none has"
                    raise ValueError(f"the ensemble {word} needs one network of {count} frames, and {has} it")
                members += having
        else:
            raise ValueError(f"an ensemble is 'all' or different numbers of frames, as in '8+16', got {word!r}")
        if len(members) > 1:
            found[" + ".join(members)] = members
    return found


def table_6_row(protocols: Sequence[Protocol]) -> str:
    """What Table 6 calls the row of a network, or of an ensemble of several on the same views."""
    frames, first = _frames(protocols), protocols[0]
    views = "" if first.views == 1 else f"x{first.crops}x{first.clips}"
    if len(protocols) == 1:
        return f"CT-Net {frames}{views}"
    return f"CT-Net_EN ({frames}){views}" if views else f"CT-Net_EN {frames}"


def _frames(protocols: Sequence[Protocol]) -> str:
    return "+".join(map(str, sorted(protocol.num_frames for protocol in protocols)))


def tested(scores: dict[str, list[Scores]], samples: Samples, data: str) -> pd.DataFrame:
    """Table 6 of what was scored: a row a network or ensemble and its views.

    Args:
        scores: what a network is called -> its scores, one a protocol.
        samples: the list.
        data: name of the data set.

    Returns:
        Columns `network`, `frames`, `views` (crops x clips), `size` (pixels), `gflops` (of all views and networks),
        `top1` with the ends `low` and `high` of its 95 % interval, `top5` (percent), `videos` (that were read),
        `listed`, `precision`, and `row`: what Table 6 calls it, empty where its network is not the paper's.
    """
    records = []
    for network, parts in scores.items():
        for part in parts:
            protocols = part.protocols
            low, high = top1_interval(part.predictions(samples), data)
            theirs = all(protocol.model == "ctnet_r50" for protocol in protocols)
            records.append(
                {
                    "network": network,
                    "frames": _frames(protocols),
                    "views": f"{protocols[0].crops} x {protocols[0].clips}",
                    "size": " and ".join(str(size) for size in sorted({protocol.size for protocol in protocols})),
                    "gflops": sum(protocol.views * protocol.gflops for protocol in protocols),
                    "top1": part.topk(1),
                    "low": low,
                    "high": high,
                    "top5": part.topk(5),
                    "videos": len(part.labels) - part.skipped,
                    "listed": samples.listed,
                    "precision": " and ".join(sorted({protocol.precision for protocol in protocols})),
                    "row": table_6_row(protocols) if theirs else "",
                }
            )
    return pd.DataFrame(records)


def published_6(data: str) -> pd.DataFrame:
    """Table 6 as the paper prints it, for one of its two data sets: the authors' own training, at 256 x 256.

    Returns:
        Indexed by row: `frames`, `views` (crops x clips), `gflops` (of all views and networks), `top1`, `top5`
        (percent); no row for a data set that the table is not about.
    """
    table = paper.table("6")
    version = {"something-v1": "v1", "something-v2": "v2"}.get(data)
    views = table.crops.astype(str) + " x " + table.clips.astype(str)
    table = table.assign(views=views).rename(
        columns={"gflops_total": "gflops", f"top1_{version}": "top1", f"top5_{version}": "top5"}
    )
    return table[["frames", "views", "gflops", "top1", "top5"]] if version else pd.DataFrame(columns=["top1"])


def not_run(table: pd.DataFrame, data: str) -> str:
    """Which rows of Table 6 `tested`'s table does not have, in words."""
    published = published_6(data)
    if published.empty:
        return f"No row here is one of the paper's Table 6 (Something-Something): these are of {data} alone."
    missing = [row for row in published.index if row not in set(table.row)]
    return f"Not run, of Table 6's {len(published)} rows: {', '.join(missing) or 'none'}."
