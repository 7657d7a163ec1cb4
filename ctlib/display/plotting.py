"""Figures of the notebooks in one style: readable in grey, and by colour-blind readers."""

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

MOST_NAMES = 40  # classes, up to which names are readable side by side
MOST_VALUES = 16  # classes, up to which values are readable in a matrix
WIDTH = 9.8  # inches that a notebook shows at full size, so that text of 9 points stays so


def use_style() -> None:
    """Set the style of all figures that follow."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({"figure.constrained_layout.use": True})


def marker(index: int) -> str:
    """The marker of the run or table with this index."""
    return "os^DvP"[index % 6]


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as a PNG, with little compression: larger, and there sooner."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def learning_curves(histories: dict[str, pd.DataFrame], bound: float | None = None) -> Figure:
    """Loss and accuracy by epoch, one line per run.

    Args:
        histories: run -> its history (epoch, loss, train_top1, top1; the last is missing where it was not tested).
        bound: the bound of frame averaging in testing, percent; drawn as a line.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8))
    for index, (name, history) in enumerate(histories.items()):
        style = {"color": f"C{index}", "marker": marker(index)}
        left.plot(history.epoch, history.loss, label=name, **style)
        right.plot(history.epoch, history.top1, label=f"{name}, test", **style)
        right.plot(history.epoch, history.train_top1, mfc="none", ls=":", label=f"{name}, training", **style)
    left.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy")
    right.set(title="Top-1 accuracy", xlabel="epoch", ylabel="%", ylim=(0, 100))
    if bound is not None:
        _bound_line(right, bound)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    return figure


def accuracy_vs_gflops(runs: pd.DataFrame, margins: Sequence[float], bound: float | None = None) -> Figure:
    """Top-1 accuracy against GFLOPs of one view, one point per run.

    Args:
        runs: columns name, gflops, top1, and the protocol: num_frames, size, clips, crops, videos.
        margins: of each run's 95 % interval, percent.
        bound: the bound of frame averaging, percent; drawn as a line.
    """
    figure, axes = plt.subplots(figsize=(6.2, 4.2))
    for index, (run, margin) in enumerate(zip(runs.itertuples(), margins, strict=True)):
        axes.errorbar(run.gflops, run.top1, yerr=margin, fmt=marker(index), ms=9, capsize=4, color=f"C{index}")
        below = bound is not None and 0 <= bound - run.top1 < 12  # the line's own place
        place = {"textcoords": "offset points", "va": "top" if below else "bottom", "weight": "bold"}
        axes.annotate(f"{run.name}  {run.top1:.1f} %", (run.gflops, run.top1), (10, -8 if below else 8), **place)
    first = runs.iloc[0]
    axes.set(
        title="Accuracy against computation",
        xlabel=f"GFLOPs of one view ({first.num_frames} x {first['size']} x {first['size']})",
        ylabel=f"top-1, % of {first.videos} videos ({first.clips} clip x {first.crops} crop)\nbars: 95 % intervals",
        ylim=(0, 110),  # room for the label of a network near 100 %
        yticks=range(0, 101, 20),
    )
    reach = max(runs.gflops.max() - runs.gflops.min(), 0.1 * runs.gflops.max())
    axes.set_xlim(runs.gflops.min() - 0.5 * reach, runs.gflops.max() + reach)
    if bound is not None:
        _bound_line(axes, bound)
    return figure


def _bound_line(axes, bound: float) -> None:
    axes.axhline(bound, color="0.3", ls="--", lw=1.2)
    right = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    axes.text(0.99, bound + 1, "bound of frame averaging", fontsize="small", color="0.3", **right)


def confusion(predictions: dict[str, pd.DataFrame], classes: Sequence[str], pairs: bool = False) -> Figure:
    """Confusion matrices side by side, each row in percent of its true class's videos.

    Values are written for at most `MOST_VALUES` classes. With more than `MOST_NAMES`, numbers replace the names, and
    colours follow the square root so that a few percent stay visible. Unreadable videos (label -1) are left out.

    Args:
        predictions: run -> columns label and predicted.
        classes: names in label order.
        pairs: frame classes 2i and 2i + 1, which belong together.
    """
    count = len(classes)
    many = count > MOST_NAMES
    names = False if many else [_short(name, 44) for name in classes]
    figure, axes = plt.subplots(1, len(predictions), figsize=(2.6 + 3.6 * len(predictions), 6.2), squeeze=False)
    for column, (name, table) in enumerate(predictions.items()):
        table = table[table.label >= 0]
        matrix = pd.crosstab(table.label, table.predicted, normalize="index")
        matrix = 100 * matrix.reindex(index=range(count), columns=range(count), fill_value=0).to_numpy()
        axis = axes[0, column]
        sns.heatmap(
            matrix, ax=axis, cmap="cividis", norm=PowerNorm(0.5 if many else 1, 0, 100), square=True,
            linewidths=0 if many else 0.3, rasterized=many, cbar=False,
            annot=False if count > MOST_VALUES else np.where(matrix >= 10, np.char.mod("%.0f", matrix), ""),
            fmt="", annot_kws={"fontsize": 9},
            xticklabels=names, yticklabels=False if column else names,
        )  # fmt: skip
        for first in range(0, count - 1, 2) if pairs else ():
            axis.add_patch(plt.Rectangle((first, first), 2, 2, fill=False, ec="white", lw=1.8))
        axis.set(title=f"{name}: {100 * (table.label == table.predicted).mean():.1f} % right", xlabel="predicted")
        axis.tick_params(labelsize=9)
        axis.tick_params(axis="x", rotation=90)
        axis.tick_params(axis="y", rotation=0)
        if many:  # class numbers at round distances
            at = np.arange(0, count, 20 if count <= 200 else 50)
            axis.set(xticks=at + 0.5, xticklabels=at, yticks=at + 0.5, yticklabels=at)
            axis.tick_params(axis="x", rotation=0)
    axes[0, 0].set_ylabel("true class, number from 0" if many else "true class")
    scale = ", on a square-root scale" if many else ""
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label=f"% of the true class's videos{scale}", shrink=0.6)
    return figure


def class_accuracy(tables: dict[str, pd.DataFrame], most: int = MOST_NAMES) -> Figure:
    """Accuracy of each class, one row of dots per class, ordered by the mean over the runs.

    With more than `most` classes, a curve shows them all, and dots show the best and the worst by name.

    Args:
        tables: run -> its `summaries.by_class`. Classes without videos are left out.
        most: how many classes are named.
    """
    accuracy = pd.DataFrame({name: table["top1"] for name, table in tables.items()}).dropna()
    names = next(iter(tables.values()))["class"]
    order = accuracy.mean(axis=1).sort_values(ascending=False, kind="stable").index
    many = len(order) > most
    each = most // 2
    named = [*order[:each], *order[-each:]] if many else list(order)
    height = 2 + 0.2 * len(named)
    if many:
        figure, (curve, axes) = plt.subplots(1, 2, figsize=(WIDTH, height), width_ratios=(1, 1.2))
        for index, name in enumerate(tables):
            curve.plot(accuracy[name].sort_values(ascending=False).to_numpy(), color=f"C{index}", label=name)
        curve.set(title=f"all {len(order)} classes, each run's best first", xlabel="class, by rank", ylabel="top-1, %")
        curve.set_ylim(-2, 102)
        axes.set_title(f"the {each} best and the {each} worst of them, by the mean of the runs")
        axes.axhline(each, color="0.6", ls=":", lw=1.2)
    else:
        figure, axes = plt.subplots(figsize=(9, height))
    rows = np.arange(len(named)) + (np.arange(len(named)) >= each if many else 0)  # a gap separates best and worst
    for index, name in enumerate(tables):
        axes.plot(accuracy.loc[named, name], rows, marker(index), color=f"C{index}", ms=6, label=name, alpha=0.85)
    axes.set_yticks(rows, [_short(names[label]) for label in named], fontsize=9)
    axes.set(xlabel="top-1, % of the class's videos", xlim=(-2, 102), ylim=(rows[-1] + 0.7, -0.7))
    columns = max(1, 100 // (6 + max(map(len, tables))))
    figure.legend(*axes.get_legend_handles_labels(), fontsize="small", loc="outside upper left", ncols=columns)
    return figure


def _short(name: str, most: int = 56) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def clips_in_rows(
    frames: Sequence[np.ndarray], truths: Sequence[str], predictions: Sequence[dict[str, str]] | None = None
) -> Figure:
    """Clips as strips of frames, one per row, with the true class above and the predictions below.

    Args:
        frames: uint8 (T, H, W, 3), one per clip.
        truths: the true class of each.
        predictions: network -> predicted class, one dict per clip; None shows the clips alone.
    """
    predictions = [{}] * len(frames) if predictions is None else predictions
    height = 2.0 if any(predictions) else 1.75
    figure, axes = plt.subplots(len(frames), 1, figsize=(WIDTH, height * len(frames)), squeeze=False)
    for axis, clip, truth, predicted in zip(axes[:, 0], frames, truths, predictions, strict=True):
        strip = np.concatenate([np.pad(frame, ((0, 0), (1, 1), (0, 0)), constant_values=255) for frame in clip], axis=1)
        axis.imshow(strip)
        labels = [f"{name}: {one} {'(right)' if one == truth else '(WRONG)'}" for name, one in predicted.items()]
        axis.set_title(truth, loc="left", fontsize="medium", weight="bold")
        axis.set_xlabel("        ".join(labels), loc="left", fontsize="small")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        sns.despine(ax=axis, left=True, bottom=True)
    figure.suptitle("time runs from left to right", x=0.99, ha="right", fontsize="small")
    return figure


def frames_sampled(thumbnails: np.ndarray, count: int, clips: dict[str, np.ndarray]) -> Figure:
    """A contact sheet of a video, and the frames that each sampling takes.

    Args:
        thumbnails: uint8 (k, H, W, 3), evenly spaced frames of the video, with its first and last.
        count: frames of the video.
        clips: sampling -> frame indices (clips, T); one row of dots per clip.
    """
    rows = [(name, clip) for name, indices in clips.items() for clip in np.atleast_2d(indices)]
    below = 0.32 * len(rows)
    figure, (top, axes) = plt.subplots(2, 1, figsize=(WIDTH, 1.6 + below), height_ratios=(1.1, below), sharex=True)
    width = count / len(thumbnails)
    for place, frame in enumerate(thumbnails):
        top.imshow(frame, extent=(place * width - 0.5, (place + 1) * width - 0.5, 0, 1), aspect="auto")
    top.set(yticks=[], ylim=(0, 1), xlim=(-0.5, count - 0.5))
    top.tick_params(labelbottom=False)
    top.grid(False)
    names = list(clips)
    for row, (name, clip) in enumerate(rows):
        axes.plot(clip, [row] * len(clip), "o", ms=5, color=f"C{names.index(name)}")
    first = [next(row for row, (other, _) in enumerate(rows) if other == name) for name in names]
    axes.set(yticks=first, yticklabels=names, ylim=(len(rows) - 0.5, -0.5), xlabel="frame of the video")
    return figure


def crops_seen(frame: np.ndarray, boxes: dict[str, Sequence[tuple[int, int, int, int]]]) -> Figure:
    """Crops as boxes in a frame, one panel per kind.

    Args:
        frame: uint8 (H, W, 3).
        boxes: kind of crop -> (top, left, height, width) in pixels of the frame.
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
