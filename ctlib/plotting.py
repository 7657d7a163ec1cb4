"""Every figure of the study, in one style: readable in grey, and by colour-blind readers."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")


def use_style() -> None:
    """Set the study's look for all figures that follow."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({"figure.constrained_layout.use": True, "svg.fonttype": "none", "svg.hashsalt": "ctlib"})


def learning_curves(histories: dict[str, pd.DataFrame], bound: float | None = None) -> Figure:
    """Loss and accuracy over the epochs, a line a run.

    Args:
        histories: name of the run -> its history (epoch, loss, train_top1, top1).
        bound: percent, a line that no frame-averaging network passes in testing.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for index, (name, history) in enumerate(histories.items()):
        colour, marker = f"C{index}", MARKERS[index % len(MARKERS)]
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
        axes.errorbar(
            run.gflops, run.top1, yerr=error, fmt=MARKERS[index % len(MARKERS)], ms=9, capsize=4, color=f"C{index}"
        )
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


def confusion(predictions: dict[str, pd.DataFrame], classes: Sequence[str]) -> Figure:
    """Confusion matrices side by side, in percent of each true class; the two classes of a pair are framed.

    Args:
        predictions: name of the run -> columns label and predicted.
        classes: names in label order, partners next to each other (labels 2i and 2i + 1).
    """
    count = len(classes)
    figure, axes = plt.subplots(1, len(predictions), figsize=(3.2 + 4.1 * len(predictions), 6.2), squeeze=False)
    for column, (name, table) in enumerate(predictions.items()):
        matrix = np.zeros((count, count))
        np.add.at(matrix, (table.label, table.predicted), 1)
        matrix = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axis = axes[0, column]
        sns.heatmap(
            matrix, ax=axis, vmin=0, vmax=100, cmap="cividis", square=True, linewidths=0.3,
            cbar=False,
            annot=np.where(matrix >= 10, np.char.mod("%.0f", matrix), ""), fmt="", annot_kws={"fontsize": 7},
            xticklabels=classes, yticklabels=classes if column == 0 else False,
        )  # fmt: skip
        for first in range(0, count - 1, 2):
            axis.add_patch(plt.Rectangle((first, first), 2, 2, fill=False, ec="white", lw=1.8))
        axis.set(title=f"{name}: {100 * (table.label == table.predicted).mean():.1f} % right", xlabel="predicted")
        axis.tick_params(labelsize=7)
        axis.tick_params(axis="x", rotation=90)
    axes[0, 0].set_ylabel("true class")
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label="% of the true class", shrink=0.6)
    return figure


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
