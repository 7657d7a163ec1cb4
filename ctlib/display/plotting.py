"""Every figure of the study, in one style: readable in grey, and by colour-blind readers."""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy import stats

MARKERS = ("o", "s", "^", "D", "v", "P")


def use_style() -> None:
    """Set the study's look for all figures that follow."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({"figure.constrained_layout.use": True})


def learning_curves(histories: dict[str, pd.DataFrame], bound: float | None = None) -> Figure:
    """Loss and accuracy over the epochs, a line a run.

    Args:
        histories: name of the run -> its history (epoch, loss, train_top1, top1).
        bound: percent, a line that no frame-averaging network passes in testing.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for index, (name, history) in enumerate(histories.items()):
        colour, marker = f"C{index}", _marker(index)
        left.plot(history.epoch, history.loss, color=colour, marker=marker, label=name)
        right.plot(history.epoch, history.top1, color=colour, marker=marker, label=f"{name}, test")
        right.plot(
            history.epoch,
            history.train_top1,
            color=colour,
            marker=marker,
            mfc="none",
            ls=":",
            label=f"{name}, training",
        )
    left.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy")
    right.set(title="Top-1 accuracy", xlabel="epoch", ylabel="%", ylim=(0, 100))
    if bound is not None:
        _bound_line(right, bound)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    return figure


def accuracy_vs_gflops(runs: pd.DataFrame, bound: float | None = None, spread: Sequence[float] | None = None) -> Figure:
    """Top-1 accuracy against GFLOPs of one view, a point a run.

    Args:
        runs: columns name, gflops, top1, and the protocol: num_frames, size, clips, crops, videos.
        bound: percent, the line that no frame-averaging network passes.
        spread: half of each run's 95 % interval, in percent.
    """
    figure, axes = plt.subplots(figsize=(6.2, 4.2))
    for index, run in enumerate(runs.itertuples()):
        error = None if spread is None else spread[index]
        axes.errorbar(run.gflops, run.top1, yerr=error, fmt=_marker(index), ms=9, capsize=4, color=f"C{index}")
        axes.annotate(
            f"{run.name}  {run.top1:.1f} %", (run.gflops, run.top1), (10, 8), textcoords="offset points", weight="bold"
        )
    first = runs.iloc[0]
    axes.set(
        title="Accuracy against computation, on made data",
        xlabel=f"GFLOPs of one view ({first.num_frames} x {first['size']} x {first['size']})",
        ylabel=f"top-1, % of {first.videos} videos ({first.clips} clip x {first.crops} crop)",
        ylim=(0, 100),
    )
    reach = max(runs.gflops.max() - runs.gflops.min(), 0.1 * runs.gflops.max())
    axes.set_xlim(runs.gflops.min() - 0.5 * reach, runs.gflops.max() + reach)
    if bound is not None:
        _bound_line(axes, bound)
    return figure


def _bound_line(axes, bound: float) -> None:
    axes.axhline(bound, color="0.3", ls="--", lw=1.2)
    axes.text(
        0.99,
        bound + 1,
        "bound of frame averaging",
        ha="right",
        va="bottom",
        fontsize="small",
        color="0.3",
        transform=axes.get_yaxis_transform(),
    )


MOST_NAMES = 40  # classes whose names can be read beside one another


def confusion(predictions: dict[str, pd.DataFrame], classes: Sequence[str], pairs: bool = False) -> Figure:
    """Confusion matrices side by side, each row in percent of its true class's videos.

    Of more than `MOST_NAMES` classes, numbers stand in place of names and of the figures in the fields, and the
    colours follow the square root, so that single fields of a few percent are seen. Videos that were not
    read (label -1) are left out.

    Args:
        predictions: name of the run -> columns label and predicted.
        classes: names in label order.
        pairs: classes 2i and 2i + 1 belong together, and are framed.
    """
    count = len(classes)
    many = count > MOST_NAMES
    names = False if many else [_short(name, 44) for name in classes]
    figure, axes = plt.subplots(1, len(predictions), figsize=(3.2 + 4.1 * len(predictions), 6.2), squeeze=False)
    for column, (name, table) in enumerate(predictions.items()):
        table = table[table.label >= 0]
        matrix = np.zeros((count, count))
        np.add.at(matrix, (table.label, table.predicted), 1)
        matrix = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axis = axes[0, column]
        sns.heatmap(
            matrix, ax=axis, cmap="cividis", norm=PowerNorm(0.5 if many else 1, 0, 100), square=True,
            linewidths=0 if many else 0.3, rasterized=many, cbar=False,
            annot=False if many else np.where(matrix >= 10, np.char.mod("%.0f", matrix), ""),
            fmt="", annot_kws={"fontsize": 7},
            xticklabels=names, yticklabels=False if column else names,
        )  # fmt: skip
        for first in range(0, count - 1, 2) if pairs else ():
            axis.add_patch(plt.Rectangle((first, first), 2, 2, fill=False, ec="white", lw=1.8))
        axis.set(title=f"{name}: {100 * (table.label == table.predicted).mean():.1f} % right", xlabel="predicted")
        axis.tick_params(labelsize=7)
        axis.tick_params(axis="x", rotation=90)
        axis.tick_params(axis="y", rotation=0)
        if many:
            _numbered(axis, count)
    axes[0, 0].set_ylabel("true class, by its number from 0" if many else "true class")
    scale = ", on a square-root scale" if many else ""
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label=f"% of the true class's videos{scale}", shrink=0.6)
    return figure


def _numbered(axis, count: int) -> None:
    """Class numbers as ticks, at round distances, in the middle of their fields."""
    at = np.arange(0, count, 20 if count <= 200 else 50)
    axis.set(xticks=at + 0.5, xticklabels=at, yticks=at + 0.5, yticklabels=at)
    axis.tick_params(axis="x", rotation=0)


def class_accuracy(tables: dict[str, pd.DataFrame], most: int = MOST_NAMES) -> Figure:
    """Accuracy of each class, a line of dots a class; the classes are in the order of their mean over the runs.

    Of more than `most` classes, a curve shows them all, and dots the best and the worst of them by name.

    Args:
        tables: name of the run -> `evaluate.by_class` of it. Classes without videos are left out.
        most: how many classes are named.
    """
    accuracy = pd.DataFrame({name: table["top1"] for name, table in tables.items()}).dropna()
    names = next(iter(tables.values()))["class"]
    order = accuracy.mean(axis=1).sort_values(ascending=False, kind="stable").index
    many = len(order) > most
    half = most // 2
    named = [*order[:half], *order[-half:]] if many else list(order)
    size = (12, 2 + 0.2 * len(named))
    if many:
        figure, (curve, axes) = plt.subplots(1, 2, figsize=size, width_ratios=(1, 1.2))
        for index, name in enumerate(tables):
            curve.plot(accuracy[name].sort_values(ascending=False).to_numpy(), color=f"C{index}", label=name)
        curve.set(title=f"all {len(order)} classes, each run's best first", xlabel="class, by rank", ylabel="top-1, %")
        curve.set_ylim(-2, 102)
    else:
        figure, axes = plt.subplots(figsize=(9, size[1]))
    # A gap parts the best from the worst.
    rows = np.arange(len(named)) + (np.arange(len(named)) >= half if many else 0)
    for index, name in enumerate(tables):
        axes.plot(accuracy.loc[named, name], rows, _marker(index), color=f"C{index}", ms=6, label=name, alpha=0.85)
    axes.set_yticks(rows, [_short(names[label]) for label in named], fontsize=7 if many else 8)
    axes.set(xlabel="top-1, % of the class's videos", xlim=(-2, 102), ylim=(rows[-1] + 0.7, -0.7))
    if many:
        axes.set_title(f"the {half} best and the {half} worst of them, by the mean of the runs")
        axes.axhline(half, color="0.6", ls=":", lw=1.2)
    columns = max(1, 100 // (6 + max(map(len, tables))))
    figure.legend(*axes.get_legend_handles_labels(), fontsize="small", loc="outside upper left", ncols=columns)
    return figure


def _short(name: str, most: int = 56) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def clips_in_rows(
    frames: Sequence[np.ndarray], truths: Sequence[str], answers: Sequence[dict[str, str]] | None = None
) -> Figure:
    """Clips as strips of frames, a row a clip, the true class above and what each network says below.

    Args:
        frames: uint8 (T, H, W, 3) a clip.
        truths: the true class of each.
        answers: name of the network -> predicted class, a dict a clip; none to show the clips alone.
    """
    answers = [{}] * len(frames) if answers is None else answers
    height = 1.75 if not any(answers) else 2.0
    figure, axes = plt.subplots(len(frames), 1, figsize=(11, height * len(frames)), squeeze=False)
    for axis, clip, truth, answer in zip(axes[:, 0], frames, truths, answers, strict=True):
        strip = np.concatenate([np.pad(frame, ((0, 0), (1, 1), (0, 0)), constant_values=255) for frame in clip], axis=1)
        axis.imshow(strip)
        lines = [f"{name}: {said} {'(right)' if said == truth else '(WRONG)'}" for name, said in answer.items()]
        axis.set_title(truth, loc="left", fontsize="medium", weight="bold")
        axis.set_xlabel("        ".join(lines), loc="left", fontsize="small")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        sns.despine(ax=axis, left=True, bottom=True)
    figure.suptitle("time runs from left to right", x=0.99, ha="right", fontsize="small")
    return figure


def published_vs_counted(ledger: pd.DataFrame) -> Figure:
    """GFLOPs and parameters of every row on a diagonal, and how much of the allowed difference each takes.

    Args:
        ledger: `study.ledger()`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), width_ratios=(1, 1, 1.15))
    names = list(dict.fromkeys(ledger.table))
    panels = (("gflops", 1, "GFLOPs"), ("params", 1e6, "parameters, M"))
    for axis, (column, unit, label) in zip(axes, panels, strict=False):
        known = ledger[ledger[f"{column}_paper"].notna()]
        for index, name in enumerate(names):
            part = known[known.table == name]
            if len(part):
                published = part[f"{column}_paper"].astype(float) / unit
                axis.plot(
                    published, part[column] / unit, _marker(index), color=f"C{index % 10}", mfc="none", label=name
                )
        ends = np.array([known[column].min() / unit / 1.3, known[column].max() / unit * 1.3])
        axis.plot(ends, ends, color="0.4", lw=1, zorder=0)
        axis.set(title=label, xlabel="published", ylabel="counted", xscale="log", yscale="log", xlim=ends, ylim=ends)
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ticks.set_major_formatter("{x:g}")
            ticks.set_minor_formatter("")
    axes[0].legend(title="Table", fontsize="x-small", title_fontsize="x-small", ncols=2)

    known = ledger[ledger.gflops_paper.notna()]
    share = (known.gflops - known.gflops_paper) / known.gflops_allowed
    for index, name in enumerate(names):
        part = share[known.table == name]
        axes[2].plot(part, [name] * len(part), _marker(index), color=f"C{index % 10}", mfc="none")
    for row, value in share[share.abs() > 1].items():
        line = known.loc[row]
        text = f"{line.row}: {line.gflops_paper:g} published, {line.gflops:.1f} counted"
        axes[2].annotate(text, (value, line.table), (0, 9), textcoords="offset points", fontsize="small", ha="left")
    axes[2].axvspan(-1, 1, color="0.9", zorder=0)
    axes[2].invert_yaxis()
    axes[2].set(title="GFLOPs: difference / allowed", xlabel="counted - published, in units of what is allowed")
    axes[2].set_ylabel("Table")
    return figure


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def cost_by_stage(parts: dict[str, pd.DataFrame], protocol: str) -> Figure:
    """Where the GFLOPs go: stacked bars, a stage a group, a network a bar.

    Args:
        parts: name of the network -> GFLOPs, a row a stage and a column a part.
        protocol: of what clip, for the axis.
    """
    figure, axes = plt.subplots(figsize=(9, 4.2))
    width = 0.8 / len(parts)
    stages = list(next(iter(parts.values())).index)
    columns = list(dict.fromkeys(column for table in parts.values() for column in table.columns))
    for number, (name, table) in enumerate(parts.items()):
        at = np.arange(len(stages)) + (number - (len(parts) - 1) / 2) * width
        bottom = np.zeros(len(stages))
        for index, column in enumerate(columns):
            values = table.get(column, pd.Series(0.0, stages)).to_numpy()
            axes.bar(
                at, values, 0.92 * width, bottom=bottom, color=f"C{index}", ec="0.2", lw=0.5,
                label=column if number == 0 else None,
            )  # fmt: skip
            bottom += values
        for x, top in zip(at, bottom, strict=True):
            axes.text(x, top, f"{name}\n{top:.1f}", ha="center", va="bottom", fontsize="x-small")
    axes.set(xticks=range(len(stages)), xticklabels=stages, ylabel=f"GFLOPs of {protocol}")
    axes.use_sticky_edges = False  # else the tallest bar touches the frame
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize="small")
    return figure


def dimension_sizes(sweeps: dict[int, pd.DataFrame]) -> Figure:
    """What the split C = C_1 x C_2 costs, against C_2, a line a width.

    Args:
        sweeps: C -> columns `c2` and `relative` (cost over that of the cheapest split).
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for index, (channels, table) in enumerate(sweeps.items()):
        axes.plot(table.c2, table.relative, f"-{_marker(index)}", color=f"C{index}", label=f"C = {channels}")
        cheapest = table.loc[table.relative.idxmin()]
        axes.plot(cheapest.c2, 1, _marker(index), ms=13, mfc="none", color=f"C{index}")
    axes.set(xscale="log", yscale="log", xlabel="$C_2$ (with $C_1 = C / C_2$)", ylabel="products, cheapest split = 1")
    axes.set_xscale("log", base=2)
    axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.legend(title="ring: the cheapest", fontsize="small", title_fontsize="small")
    return figure


def interact_fields(fields: dict, stated: dict[str, int], margin: int = 1) -> Figure:
    """The positions that one output depends on, as blocks, in the box that the paper states, a panel a module.

    Args:
        fields: name of the module -> `cost.InteractField`, all on clips of one size.
        stated: name of the module -> the extent of Table 1's box, 3 or 2K + 1.
        margin: how many positions around the largest field are shown.
    """
    reach = max(max(*field.box, stated[name]) for name, field in fields.items()) // 2 + margin
    figure = plt.figure(figsize=(3.4 * len(fields), 4.3))
    for index, (name, field) in enumerate(fields.items()):
        axes = figure.add_subplot(1, len(fields), index + 1, projection="3d")
        side = 2 * reach + 1
        middle = [extent // 2 for extent in field.places.shape]
        places = np.zeros((side,) * 3, dtype=bool)
        for place in field.places.nonzero().tolist():
            t, h, w = (at - centre + reach for at, centre in zip(place, middle, strict=True))
            if max(t, h, w) < side and min(t, h, w) >= 0:
                places[t, w, h] = True  # height upwards
        axes.voxels(places, facecolors=f"C{index}", edgecolor="0.25", linewidth=0.3, alpha=0.85)
        extent = stated[name]
        _box(axes, [(reach + 0.5 - extent / 2, reach + 0.5 + extent / 2)] * 3)
        text = f"paper: {extent} x {extent} x {extent}\nmeasured: {field.positions} of {extent**3} positions"
        axes.set_title(f"{name}\n{text}", fontsize="small")
        ends = (0, side)
        axes.set(xlabel="time", ylabel="width", zlabel="height", xlim=ends, ylim=ends, zlim=ends)
        axes.set(xticklabels=[], yticklabels=[], zticklabels=[])
        axes.view_init(22, -52)
    return figure


def _box(axes, ends: Sequence[tuple[float, float]]) -> None:
    """The twelve edges of a box in three dimensions."""
    for along in range(3):
        others = [ends[axis] for axis in range(3) if axis != along]
        for fixed in itertools.product(*others):
            line = [(value, value) for value in fixed]
            line.insert(along, ends[along])
            axes.plot(*line, color="0.35", lw=0.8)


def latency_vs_gflops(timed: pd.DataFrame) -> Figure:
    """Measured milliseconds against GFLOPs, a point a network; the line is what GFLOPs alone would promise.

    Args:
        timed: columns name, gflops, milliseconds, low, high, and the conditions of `cost.Latency`. The line
            goes through the first row.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for index, row in enumerate(timed.itertuples()):
        error = [[row.milliseconds - row.low], [row.high - row.milliseconds]]
        axes.errorbar(row.gflops, row.milliseconds, error, fmt=_marker(index), ms=8, capsize=3, color=f"C{index}")
        side, align = (9, "left") if index % 2 == 0 else (-9, "right")
        axes.annotate(
            row.name, (row.gflops, row.milliseconds), (side, -3), textcoords="offset points", fontsize="small", ha=align
        )
    first = timed.iloc[0]
    reach = np.array([0, 1.15 * timed.gflops.max()])
    axes.plot(reach, reach * first.milliseconds / first.gflops, "--", color="0.4", lw=1, zorder=0)
    axes.set(
        xlabel=f"GFLOPs of one clip ({first.num_frames} x {first['size']} x {first['size']})",
        ylabel=f"ms a call, batch {first.batch}, {first.precision}",
        title=f"{first.hardware}" + (f", {first.threads} threads" if first.device == "cpu" else ""),
        xlim=reach,
        ylim=(0, 1.2 * max(timed.high.max(), reach[1] * first.milliseconds / first.gflops)),
    )
    return figure


def frames_sampled(thumbnails: np.ndarray, count: int, clips: dict[str, np.ndarray]) -> Figure:
    """A contact sheet of a video, and which of its frames each sampling takes.

    Args:
        thumbnails: uint8 (k, H, W, 3), frames of the video at even distances, its first and last among them.
        count: how many frames the video has.
        clips: what was sampled -> frame indices (clips, T); a line of dots a clip.
    """
    lines = [(name, clip) for name, indices in clips.items() for clip in np.atleast_2d(indices)]
    figure, (top, axes) = plt.subplots(
        2, 1, figsize=(11, 1.6 + 0.32 * len(lines)), height_ratios=(1.1, 0.32 * len(lines)), sharex=True
    )
    width = count / len(thumbnails)
    for place, frame in enumerate(thumbnails):
        top.imshow(frame, extent=(place * width - 0.5, (place + 1) * width - 0.5, 0, 1), aspect="auto")
    top.set(yticks=[], ylim=(0, 1), xlim=(-0.5, count - 0.5))
    top.tick_params(labelbottom=False)
    top.grid(False)
    names = list(clips)
    for row, (name, clip) in enumerate(lines):
        axes.plot(clip, [row] * len(clip), "o", ms=5, color=f"C{names.index(name)}")
    first = [next(row for row, (other, _) in enumerate(lines) if other == name) for name in names]
    axes.set(yticks=first, yticklabels=names, ylim=(len(lines) - 0.5, -0.5), xlabel="frame of the video")
    return figure


def crops_seen(frame: np.ndarray, boxes: dict[str, Sequence[tuple[int, int, int, int]]]) -> Figure:
    """Where crops lie in a frame, a panel a kind.

    Args:
        frame: uint8 (H, W, 3).
        boxes: what was cropped -> (top, left, height, width) in pixels of the frame.
    """
    figure, axes = plt.subplots(1, len(boxes), figsize=(3.6 * len(boxes), 3.4), squeeze=False)
    for axis, (name, kind) in zip(axes[0], boxes.items(), strict=True):
        axis.imshow(frame)
        for index, (top, left, height, width) in enumerate(kind):
            corner = (left - 0.5, top - 0.5)
            axis.add_patch(plt.Rectangle(corner, width, height, fill=False, ec=f"C{index % 10}", lw=1.8))
        axis.set(title=name, xticks=[], yticks=[])
        axis.grid(False)
    return figure


def splits_compared(splits: pd.DataFrame, histories: dict[tuple[str, str, int], pd.DataFrame]) -> Figure:
    """Accuracy on each split of a data set, by where training began, and how it came about; a row a data set.

    Args:
        splits: of `transfer.by_split`: columns data, weights, fold, top1 and classes.
        histories: (data, weights, fold) -> the run's history.
    """
    datasets, kinds = splits.data.unique(), splits.weights.unique()
    figure, axes = plt.subplots(len(datasets), 2, figsize=(10, 3.3 * len(datasets)), squeeze=False, sharey="row")
    for (left, right), data in zip(axes, datasets, strict=True):
        part = splits[splits.data == data]
        for index, weights in enumerate(kinds):
            runs, colour, marker = part[part.weights == weights], f"C{index}", _marker(index)
            left.plot(runs.fold, runs.top1, marker, ms=8, color=colour, label=weights)
            left.axhline(runs.top1.mean(), color=colour, lw=1.2)
            for fold in runs.fold:
                history = histories[data, weights, fold]
                label = weights if fold == runs.fold.min() else None
                right.plot(history.epoch, history.top1, color=colour, marker=marker, ms=4, lw=1.2, label=label)
        for axis in (left, right):
            axis.axhline(100 / part.classes.iloc[0], color="0.3", ls="--", lw=1.2, label="chance")
            axis.set_ylim(bottom=0)
        left.set(title=f"{data}: after training (lines: means)", xlabel="split", ylabel="top-1, %")
        left.set(xticks=sorted(part.fold.unique()), xlim=(part.fold.min() - 0.5, part.fold.max() + 0.5))
        right.set(title=f"{data}: test list of each split", xlabel="epoch")
        right.xaxis.get_major_locator().set_params(integer=True)
        right.legend(fontsize="small")
    return figure


def ablation(measured: pd.DataFrame, title: str, bound: float | None = None) -> Figure:
    """Top-1 of the rows of a table: a mark a seed, their mean, and its 95 % t interval from two seeds on.

    Args:
        measured: columns row, seed and top1 (percent), rows in the order in which they are shown.
        title: of the figure.
        bound: percent, a line that no frame-averaging network passes.
    """
    names, seeds = list(dict.fromkeys(measured.row)), sorted(measured.seed.unique())
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.45 * len(names)))
    for place, name in enumerate(names):
        top1 = measured[measured.row == name].set_index("seed").top1
        for index, seed in enumerate(seeds):
            if seed in top1:
                label = f"seed {seed}" if name == names[0] else None
                axes.plot(top1[seed], place, _marker(index), mfc="none", ms=6, color=f"C{index}", label=label)
        half = top1.std() / len(top1) ** 0.5 * stats.t.ppf(0.975, len(top1) - 1) if len(top1) > 1 else None
        axes.errorbar(top1.mean(), place, xerr=half, fmt="|", ms=14, capsize=4, color="0.15", zorder=0)
    if bound is not None:
        axes.axvline(bound, color="0.3", ls="--", lw=1.2, label="bound of frame averaging")
    axes.set_yticks(range(len(names)), names)
    left, right = axes.get_xlim()  # an interval may reach beyond what a percentage can be
    axes.set(title=title, xlabel="top-1, %", xlim=(max(left, 0), min(right, 100)), ylim=(len(names) - 0.4, -0.6))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
