"""Fine-tuning on three splits, UCF101's and HMDB51's way (appendix A.3, Table 5): the runs, and what they say."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd
from scipy import stats

from ctlib import paper
from ctlib.config import RunConfig
from ctlib.study.synthetic_sets import FOLDS
from ctlib.training.recipes import run_config
from ctlib.training.records import RunFolder

TUNED, SCRATCH = "fine-tuned", "from scratch"

# What differs from the recipe "laptop": on the made sets, chosen with their test lists in view, and in training the
# network from which they are fine-tuned.
MADE = {"data.size": 32, "recipe.batch": 8, "recipe.lr": 0.112, "recipe.epochs": 9}
_START = {"data.size": 32, "recipe.batch": 8, "recipe.epochs": 7}
_START |= {"arrow.train_clips": 960, "arrow.val_clips": 160, "arrow.difficulty": 0.0}


def folds_of(text: str) -> tuple[int, ...]:
    """The splits that "1 2 3" names, in their order.

    Raises:
        ValueError: something else than numbers of splits, each once.
    """
    found = sorted(text.split())
    if not found or len(set(found)) < len(found) or set(found) - {str(fold) for fold in FOLDS}:
        raise ValueError(f"folds must be some of {' '.join(map(str, FOLDS))}, each once, got {text!r}")
    return tuple(map(int, found))


def start_run(model: str, overrides: str = "", seed: int = 0) -> RunConfig:
    """A minute's training on Arrow of Time, to fine-tune from where there is no better start."""
    return run_config("arrow", model, "laptop", overrides, name="start", seed=seed, **_START)


def configs(
    roots: dict[str, str],
    folds: Sequence[int],
    model: str,
    recipe: str = "",
    overrides: str = "",
    start: str = "",
    scratch: bool = False,
    **given,
) -> dict[tuple[str, str, int], RunConfig]:
    """The runs: one a data set, a start and a split.

    Args:
        roots: data set -> its folder.
        folds: the splits.
        model, recipe, overrides, given: as `recipes.run_config` takes them.
        start: the checkpoint to fine-tune from; empty: not there yet.
        scratch: train each split a second time, from random weights.

    Returns:
        (data set, "fine-tuned" or "from scratch", split) -> the run, which is named by the last two.

    Raises:
        ValueError: as `recipes.run_config`, or overrides that choose a split.
    """
    found = {}
    for data, root in roots.items():
        for fold in folds:
            for weights in (TUNED, SCRATCH) if scratch else (TUNED,):
                parts = {"name": f"{weights.replace(' ', '_')}_split{fold}", "data.root": root, "data.fold": fold}
                if weights == TUNED:
                    parts["start"] = start
                random = " model.weights=null" if weights == SCRATCH else ""  # not the recipe's, from ImageNet
                config = run_config(data, model, recipe, overrides + random, **given, **parts)
                if config.data.fold != fold:
                    raise ValueError(
                        f"folds say which splits are run: leave data.fold={config.data.fold} out of overrides"
                    )
                found[data, weights, fold] = config
    return found


def by_split(folders: Iterable[RunFolder]) -> pd.DataFrame:
    """Finished runs on splits of data sets, a row a run.

    Returns:
        Columns `data`, `weights` (that training began with: "fine-tuned" from a checkpoint, or "from scratch"), `fold`,
        `top1` (percent), `videos` (that were tested), `classes` (a count) and `seed`.
    """
    rows = []
    for folder in folders:
        config, result, resolved = folder.config(), folder.result(), folder.record()["resolved"]
        rows.append(
            {
                "data": config.data.name,
                "weights": TUNED if config.start else SCRATCH,
                "fold": config.data.fold or 1,
                "top1": result["top1"],
                "videos": result["videos"] - result["skipped"],
                "classes": resolved["num_classes"],
                "seed": config.seed,
            }
        )
    return pd.DataFrame(rows)


def averaged(splits: pd.DataFrame) -> pd.DataFrame:
    """Top-1 in Table 5's form: a row a data set and start, a column a split, then their mean and spread.

    The spread is the sample standard deviation over the splits, missing of one split. It is no interval:
    the splits share most of their training videos.

    Args:
        splits: of `by_split`.
    """
    rows = {}
    for key, runs in splits.groupby(["data", "weights"], sort=False):
        top1 = runs.set_index("fold").top1.sort_index()
        rows[key] = {f"split {fold}": value for fold, value in top1.items()} | {
            "mean": top1.mean(),
            "spread": top1.std(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["data", "weights"])
    return table


def gains(splits: pd.DataFrame) -> pd.DataFrame:
    """How much better fine-tuning was than training from scratch on the same splits, in points of percent.

    Args:
        splits: of `by_split`; splits that were not trained both ways are left out.

    Returns:
        Indexed by data set: `splits` (how many), `mean` and `spread` of the paired differences, `half` of their 95 % t
        interval, and whether the mean is `resolved`, which is beyond it. The interval takes splits as
        independent, and so is too narrow: what lies within it is not resolved, and what lies beyond may still not be.
    """
    rows = {}
    for data, runs in splits.groupby("data", sort=False):
        both = runs.pivot_table(index="fold", columns="weights", values="top1")
        if not {TUNED, SCRATCH} <= set(both):
            continue
        differences = (both[TUNED] - both[SCRATCH]).dropna()
        count, spread = len(differences), differences.std()
        half = stats.t.ppf(0.975, count - 1) * spread / math.sqrt(count) if count > 1 else math.nan
        mean = differences.mean()
        rows[data] = {
            "splits": count,
            "mean": mean,
            "spread": spread,
            "half": half,
            "resolved": bool(count > 1 and abs(mean) > half),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["splits", "mean", "spread", "half", "resolved"])


def published(datasets: Iterable[str]) -> pd.DataFrame:
    """Table 5 as the paper prints it, of some of its data sets: top-1 in percent, averaged over three splits."""
    datasets = list(datasets)
    table = paper.table("5").reset_index()
    return table[["method", "backbone", "pretrain", *datasets]].set_index("method")


def told(splits: pd.DataFrame) -> str:
    """What the splits say, in a line or two a data set."""
    table, differences, lines = averaged(splits), gains(splits), []
    for (data, weights), row in table.iterrows():
        runs = splits[(splits.data == data) & (splits.weights == weights)]
        over = f"mean over {len(runs)} splits, spread {row.spread:.1f}" if len(runs) > 1 else "one split only"
        chance = 100 / runs.classes.iloc[0]
        lines.append(
            f"{data}, {weights}: top-1 {row['mean']:.1f} % ({over}; {runs.videos.min()} test videos a split, "
            f"chance {chance:.0f} %)"
        )
        if weights == SCRATCH and data in differences.index:
            lines.append(f"  {_gain_told(differences.loc[data])}")
    return "\n".join(lines)


def _gain_told(gain: pd.Series) -> str:
    text = f"fine-tuned against from scratch, split by split: {gain['mean']:+.1f} points"
    if gain.splits < 2:
        return f"{text} on one split, which says nothing of how it varies: not resolved"
    text += f", spread {gain.spread:.1f}, t interval ± {gain.half:.1f} over {gain.splits} splits"
    return f"{text}: {'beyond it' if gain.resolved else 'within it, not resolved'}"
