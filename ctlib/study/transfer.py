"""Fine-tuning on the three splits of UCF101 and HMDB51 (appendix A.3, Table 5): the runs, and their averages."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ctlib import paper
from ctlib.config import RunConfig, parse_words
from ctlib.study.synthetic_sets import FOLDS
from ctlib.training.recipes import run_config
from ctlib.training.records import RunFolder
from ctlib.training.statistics import mean_interval

TUNED, SCRATCH = "fine-tuned", "from scratch"

# What differs from the recipe "laptop" on the synthetic data, chosen with their test lists in view.
SYNTHETIC = {"data.size": 32, "recipe.batch": 8, "recipe.lr": 0.112, "recipe.epochs": 9}


def parse_folds(text: str) -> tuple[int, ...]:
    """The splits that "1 2 3" names, in ascending order. Raises ValueError for anything else."""
    needed = f"folds must be some of {' '.join(map(str, FOLDS))}, each once"
    return tuple(sorted(parse_words(text, {str(fold): fold for fold in FOLDS}.__getitem__, needed)))


def configs(
    roots: Mapping[str, str],
    folds: Sequence[int],
    model: str,
    overrides: str = "",
    *,
    start: str,
    scratch: bool = False,
    **given,
) -> dict[tuple[str, str, int], RunConfig]:
    """The runs: one per data set, start and split.

    Args:
        roots: data set -> its folder.
        model, overrides, given: as in `recipes.run_config`.
        start: the checkpoint to fine-tune from.
        scratch: train each split a second time, from random weights.

    Returns:
        (data set, "fine-tuned" or "from scratch", split) -> the run, which is named by the last two.

    Raises:
        ValueError: as `recipes.run_config`, or overrides that choose a split.
    """
    starts = {TUNED: (start, overrides)}
    if scratch:
        starts[SCRATCH] = "", f"{overrides} model.weights=null"  # the recipe's are ImageNet's
    runs = {}
    for (data, root), fold, (weights, (path, changes)) in itertools.product(roots.items(), folds, starts.items()):
        parts = {"name": f"{weights.replace(' ', '_')}_split{fold}", "data.root": root, "data.fold": fold}
        config = run_config(data, model, overrides=changes, start=path, **given, **parts)
        if config.data.fold != fold:
            raise ValueError(f"folds choose the splits: leave data.fold={config.data.fold} out of overrides")
        runs[data, weights, fold] = config
    return runs


def by_split(folders: Iterable[RunFolder]) -> pd.DataFrame:
    """Finished runs on splits of data sets.

    Returns:
        One row per run: `data`, `weights` ("fine-tuned" or "from scratch"), `fold`, `top1` (percent), `videos`
        (tested), `classes` (a count) and `seed`.
    """
    rows = []
    for folder in folders:
        config, result, classes = folder.config(), folder.result(), folder.record()["resolved"]["num_classes"]
        run = config.data.name, TUNED if config.start else SCRATCH, config.data.fold
        rows.append((*run, result["top1"], result["videos"] - result["skipped"], classes, config.seed))
    return pd.DataFrame(rows, columns=["data", "weights", "fold", "top1", "videos", "classes", "seed"])


def averaged(splits: pd.DataFrame) -> pd.DataFrame:
    """Top-1 in Table 5's form, and what it is of.

    Args:
        splits: of `by_split`.

    Returns:
        One row per data set and start: a column per split, their `mean` and `std` (the sample standard deviation over
        splits, missing with one; no interval, as the splits share most of their training videos), `videos` (tested per
        split, the fewest) and `chance` (percent).
    """
    runs = splits.groupby(["data", "weights"], sort=False)
    table = splits.pivot_table(index=["data", "weights"], columns="fold", values="top1", sort=False).sort_index(axis=1)
    table = table.add_prefix("split ").rename_axis(columns=None)
    table = table.assign(mean=table.mean(axis=1), std=table.std(axis=1))
    return table.assign(videos=runs.videos.min(), chance=100 / runs.classes.first())


def gains(splits: pd.DataFrame) -> pd.DataFrame:
    """How much better fine-tuning was than training from scratch on the same splits, in points of percent.

    Returns:
        One row per data set that was trained both ways: `splits`, the `mean` and `std` of the differences, the `margin`
        of their 95 % t interval, and whether the mean is `significant`: beyond the margin. The splits share videos, so
        the interval is too narrow.
    """
    rows = {}
    for data, runs in splits.groupby("data", sort=False):
        both = runs.pivot_table(index="fold", columns="weights", values="top1")
        if not {TUNED, SCRATCH} <= set(both):
            continue
        differences = (both[TUNED] - both[SCRATCH]).dropna()
        interval = mean_interval(differences)
        rows[data] = [len(differences), interval.mean, differences.std(), interval.margin, interval.significant]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["splits", "mean", "std", "margin", "significant"])


def published(datasets: Iterable[str]) -> pd.DataFrame:
    """Table 5 as the paper prints it, of some of its data sets: top-1 in percent, averaged over three splits."""
    table = paper.table("5").reset_index()
    return table[["method", "backbone", "pretrain", *datasets]].set_index("method")
