"""Figures of trained runs: the rows of an ablation, splits of a data set, where saliency lies."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ctlib.display.plotting import marker
from ctlib.study.localisation import OWN, RANDOM, SEEN, SHUFFLED
from ctlib.training.statistics import mean_interval


def ablation(measured: pd.DataFrame, title: str, bound: float | None = None) -> Figure:
    """Top-1 of the rows of a table: one mark per seed, their mean, and from two seeds on its 95 % t interval.

    Args:
        measured: columns row, seed and top1 (percent), rows in the order of the figure.
        title: of the figure.
        bound: the bound of frame averaging, percent; drawn as a line.
    """
    names, seeds = list(dict.fromkeys(measured.row)), sorted(measured.seed.unique())
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.45 * len(names)))
    for place, name in enumerate(names):
        top1 = measured[measured.row == name].set_index("seed").top1
        for index, seed in enumerate(seeds):
            if seed in top1:
                label = f"seed {seed}" if name == names[0] else None
                axes.plot(top1[seed], place, marker(index), mfc="none", ms=6, color=f"C{index}", label=label)
        margin = mean_interval(top1).margin if len(top1) > 1 else None
        axes.errorbar(top1.mean(), place, xerr=margin, fmt="|", ms=14, capsize=4, color="0.15", zorder=0)
    if bound is not None:
        axes.axvline(bound, color="0.3", ls="--", lw=1.2, label="bound of frame averaging")
    axes.set_yticks(range(len(names)), names)
    left, right = axes.get_xlim()  # an interval may reach beyond 100 %
    axes.set(title=title, xlabel="top-1, %", xlim=(max(left, 0), min(right, 100)), ylim=(len(names) - 0.4, -0.6))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def splits_compared(splits: pd.DataFrame, histories: dict[tuple[str, str, int], pd.DataFrame]) -> Figure:
    """Accuracy on each split of a data set by starting weights, and over the epochs; one row per data set.

    Args:
        splits: of `transfer.by_split`: columns data, weights, fold, top1 and classes.
        histories: (data, weights, fold) -> the run's history.
    """
    datasets, kinds = splits.data.unique(), splits.weights.unique()
    figure, axes = plt.subplots(len(datasets), 2, figsize=(10, 3.3 * len(datasets)), squeeze=False, sharey="row")
    for (left, right), data in zip(axes, datasets, strict=True):
        part = splits[splits.data == data]
        for index, weights in enumerate(kinds):
            runs, style = part[part.weights == weights], {"color": f"C{index}", "marker": marker(index)}
            left.plot(runs.fold, runs.top1, ls="", ms=8, label=weights, **style)
            left.axhline(runs.top1.mean(), color=f"C{index}", lw=1.2)
            for fold in runs.fold:
                history = histories[data, weights, fold]
                label = weights if fold == runs.fold.min() else None
                right.plot(history.epoch, history.top1, ms=4, lw=1.2, label=label, **style)
        for axis in (left, right):
            axis.axhline(100 / part.classes.iloc[0], color="0.3", ls="--", lw=1.2, label="chance")
            axis.set_ylim(bottom=0)
        left.set(title=f"{data}: after training (lines: means)", xlabel="split", ylabel="top-1, %")
        left.set(xticks=sorted(part.fold.unique()), xlim=(part.fold.min() - 0.5, part.fold.max() + 0.5))
        right.set(title=f"{data}: test list of each split", xlabel="epoch")
        right.xaxis.get_major_locator().set_params(integer=True)
        right.legend(fontsize="small")
    return figure


def localised(table: pd.DataFrame) -> Figure:
    """Saliency on the object and in time, one point per network and training, beside the three controls.

    Args:
        table: of `localisation.summary`; networks with random weights are called "..., random weights".
    """
    panels = {
        "share": ("on the object, % of a frame's saliency", "area"),
        "hit": ("greatest value on the object, % of frames", "area"),
        "share_time": ("while it acts, % of a clip's saliency", "area_time"),
        "hit_time": ("strongest frame while it acts, % of clips", "area_time"),
    }
    names = [name for name in table.network.unique() if not name.endswith(RANDOM)]
    kinds = {"trained": ("o", "C0"), SHUFFLED: ("x", "C1"), "random weights": ("s", "C2")}
    figure, axes = plt.subplots(2, 2, figsize=(11, 1.6 + 0.75 * len(names)), sharey=True)
    for axis, (measure, (label, area)) in zip(axes.flat, panels.items(), strict=True):
        for row in table.itertuples():
            random = row.network.endswith(RANDOM)
            if row.of == SEEN or (random and row.of != OWN):
                continue
            kind = "random weights" if random else "trained" if row.of == OWN else SHUFFLED
            (shape, colour), offset = kinds[kind], (-0.2, 0, 0.2)[list(kinds).index(kind)]
            place = names.index(row.network.removesuffix(RANDOM)) + offset
            value, margin = getattr(row, measure), getattr(row, f"{measure}_margin")
            filled = {"mfc": "none"} if kind == "random weights" else {}
            axis.errorbar(value, place, xerr=margin, fmt=shape, color=colour, capsize=3, ms=6, **filled)
        axis.axvline(table[area].mean(), color="0.3", ls="--", lw=1.2)
        axis.set(xlabel=label, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    handles = [
        plt.Line2D([], [], marker=shape, color=colour, ls="", mfc="none" if kind == "random weights" else colour)
        for kind, (shape, colour) in kinds.items()
    ]
    handles.append(plt.Line2D([], [], color="0.3", ls="--"))
    figure.legend(handles, [*kinds, "uniform over the map, or over all frames"], loc="outside upper center", ncols=4)
    return figure
