"""Lesson 4, from block to network: which blocks are replaced and what that costs (explorer, figures, exercises)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import nn
from torchvision.models.resnet import Bottleneck

from ctlib.backbones import CTBlock, run_block
from ctlib.config import ModelConfig, check_choice
from ctlib.cost import eval_with_hooks
from ctlib.ct_module import CTModule
from ctlib.excitation import TensorExcitation
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.teaching import anatomy
from ctlib.teaching.anatomy import Part
from ctlib.teaching.exercise import NotYet, expect, given, plain, solved_by
from ctlib.teaching.shell import BLUE, DARK, PALE, WIDEST, View, by, canvas, flow_arrow, flow_step

# What a replaced block holds: Figure 2(b) and 2(a), and the modules of Table 2a.
MODULES: dict[str, dict] = {
    "CT-Block": {},
    "simple CT-Block": {"pointwise": False, "excitation": "none"},
    "C3D-Module": {"module": "c3d"},
    "R(2+1)D-Module": {"module": "r2plus1d"},
    "CSN-Module": {"module": "csn"},
}
# Which blocks of a stage are replaced. The first changes the shape and always stays.
CHOICES = {"none": slice(0), "every other": slice(1, None, 2), "all but the first": slice(1, None)}
MOST_INDICES = 24  # parts of a network, up to which there is room for each block's index

# ---------------------------------------------------------------- explorer


def block_flow(block: nn.Module, features: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """The steps of a ResBlock or a CT-Block, recorded while it runs on (1, 4C, T, H, W): Figure 2(a) and (b).

    `block` is torchvision's `Bottleneck` without downsampling, or a `CTBlock` with a `CTModule`, in any mode. Each step
    is (what is done, the shape (C, T, H, W) of its output).
    """
    num_frames, steps = features.shape[2], [("features X", tuple(features.shape[1:]))]
    names = {block.bn1: "1x1 convolution, BN, ReLU", block.bn3: "1x1 convolution, BN", block: "sum with X, ReLU"}
    if isinstance(block, CTBlock) and isinstance(block.conv2, CTModule):
        module = block.conv2
        for number, (part, size) in enumerate(zip(module.sub_operations, module.dims, strict=True), start=1):
            excited = " + TE" if isinstance(part.excitation, TensorExcitation) else ""
            names[part] = f"sub-operation {number}: TSConv, $C_{number}$ = {size}{excited}"
        names |= dict.fromkeys(module.pointwise, "point-wise convolution, BN, ReLU")
    else:
        names[block.bn2] = "3x3 convolution, BN, ReLU"

    def note(layer, _inputs, output):
        clip = output[0] if output.ndim == 5 else clips_of(output, num_frames)[0]
        steps.append((names[layer], tuple(clip.shape)))

    with torch.no_grad(), eval_with_hooks(block, dict.fromkeys(names, note)):
        run_block(block, frames_of(features), num_frames)
    return steps


def block(dims: int, pointwise: bool, excitation: str, width: int = 64, shape: Sequence[int] = (8, 14, 14)) -> View:
    """A ResBlock and a CT-Block of C = `width` on (T, H, W) = `shape`: steps, shapes, shortcut and costs."""
    with torch.device("meta"):
        features = torch.zeros(1, 4 * width, *shape)
        module = CTModule(width, dims, pointwise=pointwise, excitation=excitation)
        blocks = {"ResBlock": Bottleneck(4 * width, width), "CT-Block": CTBlock(Bottleneck(4 * width, width), module)}
    steps, numbers = {}, {"C": f"{width} = {by(module.dims)}"}
    for name, each in blocks.items():
        layers, operations = [layer for layer in each.modules() if hasattr(layer, "weight")], []
        note = lambda layer, _inputs, output, to=operations: to.append(anatomy.operations_of(layer, output))  # noqa: E731
        with eval_with_hooks(each, dict.fromkeys(layers, note)):
            steps[name] = block_flow(each, features)
        numbers[f"{name}, GFLOPs"] = f"{sum(operations) / 1e9:.3f}"
        numbers[f"{name}, parameters"] = f"{sum(parameter.numel() for parameter in each.parameters()):,}"
    alt = "; ".join(f"{name}: {', then '.join(what for what, _ in each)}" for name, each in steps.items())
    return View(flow(steps), numbers, f"{alt}. A shortcut leads past all steps to the sum.")


def config_of(
    backbone: str, module: str, stages: tuple[str, str, str, str], num_frames: int = 8, num_classes: int = 174
) -> ModelConfig:
    """A ResNet. One of `CHOICES` for each of stages 2 to 5 says which blocks one of `MODULES` replaces."""
    check_choice("module", module, MODULES)
    for choice in stages:
        check_choice("choice", choice, CHOICES)
    depths = anatomy.depths_of(backbone)
    placed = tuple(tuple(range(depth)[CHOICES[choice]]) for depth, choice in zip(depths, stages, strict=True))
    if not any(placed):
        return ModelConfig(num_classes, num_frames, backbone, blocks="none")
    return ModelConfig(num_classes, num_frames, backbone, placed, **MODULES[module])


def network(config: ModelConfig, module: str, size: int = 256) -> View:
    """The parts of a network of `config_of` with their costs, compared with TSN and with dense 3D convolutions."""
    plain = ModelConfig(config.num_classes, config.num_frames, config.backbone, "none")
    parts, tsn = anatomy.parts(config, size), anatomy.parts(plain, size)
    count, blocks = sum(part.replaced for part in parts), len(parts) - 2
    dense = replace(plain, blocks=config.blocks, module="c3d") if count else plain
    total, without, whole = map(anatomy.gflops, (parts, tsn, anatomy.parts(dense, size)))
    replaced = f"{count} of {blocks} blocks replaced"
    numbers = {
        "blocks replaced": f"{count} of {blocks}",
        f"GFLOPs, one view of {config.num_frames} x {size} x {size}": f"{total:.2f}",
        "GFLOPs, no block replaced (TSN)": f"{without:.2f}",
        "GFLOPs, dense 3x3x3 in the same blocks (C3D)": f"{whole:.2f}",
        "share of TSN": f"{100 * total / without:.1f} %",
        "share of the dense 3D network": f"{100 * total / whole:.1f} %",
        "parameters": f"{sum(part.params for part in parts):,}",
        "weights of the 2D backbone that stay": f"{anatomy.kept(parts):.1f} %",
    }
    alt = f"{config.backbone} from stem to head as boxes, {replaced} ({module}), below each its GFLOPs: {total:.1f}."
    title = f"{config.backbone}: {replaced}, {total:.1f} GFLOPs"
    return View(network_figure(parts, tsn, module, title), numbers, alt)


# ---------------------------------------------------------------- figures


def flow(columns: dict[str, list[tuple[str, tuple[int, ...]]]]) -> Figure:
    """Steps of blocks from top to bottom, one column per title, with the shapes; the shortcut leads past them."""
    count = max(map(len, columns.values()))
    figure = canvas(WIDEST, 0.62 * count + 0.4, left=0.01, right=0.99, bottom=0.01, top=0.93)
    edge = 0.5 + 0.78 * len(columns) / WIDEST  # just beside the last step's box
    for axes, (title, steps) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        for row, (what, shape) in enumerate(steps):
            at = count - row - 0.5
            flow_step(axes, 0.5, at, what, shape)
            if row:
                flow_arrow(axes, (0.5, at + 0.69), (0.5, at + 0.34))
        flow_arrow(axes, (0.5, count - 0.5), (0.985, count - 0.5), (0.985, at), (edge, at), color=DARK)
        axes.text(0.97, count - 0.42, "shortcut", ha="right", va="bottom", fontsize=9, color=DARK)
        axes.set_title(title, fontsize="medium")
        axes.set(xlim=(0, 1), ylim=(0, count))
        axes.axis("off")
    return figure


def placements(depths: Sequence[int], rows: pd.DataFrame) -> Figure:
    """Which blocks are replaced: one line per row and one cell per block, with the row's values beside them.

    `depths` are the numbers of blocks of the stages. `rows` has `blocks`, the indices in each stage, and other columns
    of text, which are written under their names.
    """
    height = 1.0 + 0.36 * len(rows)
    figure = canvas(8.6, height, left=0.15, right=0.995, bottom=0.1 / height, top=1 - 0.75 / height)
    axes, starts = figure.add_subplot(), np.cumsum([0, *(depth + 0.7 for depth in depths)])
    texts = [column for column in rows if column != "blocks"]
    heads = {f"stage {n}": start + depth / 2 for n, (start, depth) in enumerate(zip(starts, depths, strict=False), 2)}
    heads |= dict(zip(texts, starts[-1] + 1.5 + 3.6 * np.arange(len(texts)), strict=True))
    cells = np.concatenate([start + np.arange(depth) for start, depth in zip(starts, depths, strict=False)])
    style = {"height": 0.72, "width": 0.9, "align": "edge", "ec": "0.25", "lw": 0.8}
    for place, (_, row) in enumerate(rows.iterrows()):
        taken = [index in indices for depth, indices in zip(depths, row.blocks, strict=True) for index in range(depth)]
        axes.bar(cells, bottom=place - 0.36, color=np.where(taken, DARK, PALE), **style)
        for column in texts:
            axes.text(heads[column], place, row[column], ha="center", va="center", fontsize=10)
    for name, x in heads.items():
        axes.text(x, -0.6, name, ha="center", va="bottom", fontsize=10)
    axes.set_yticks(range(len(rows)), rows.index, fontsize=10)
    axes.set(xlim=(-0.3, max(heads.values()) + 1.7), ylim=(len(rows) - 0.5, -0.6), xticks=[])
    axes.tick_params(left=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def network_figure(parts: Sequence[Part], plain: Sequence[Part], module: str, title: str) -> Figure:
    """A network from stem (left) to head (right): boxes as high as their frames, and the cost of each below.

    Where a block was replaced, that of `plain`, the same backbone with no block replaced, is outlined.
    """
    figure = canvas(WIDEST, 4.3, left=0.1, right=0.995, bottom=0.07, top=0.93, hspace=0.1)
    boxes, costs = figure.subplots(2, 1, sharex=True, height_ratios=(1.25, 1))
    at, sides = np.arange(len(parts)), np.array([part.shape[2] for part in parts])
    colours = [DARK if part.replaced else PALE if part.stage.startswith("stage") else "white" for part in parts]
    style = {"width": 0.86, "color": colours, "edgecolor": "0.25", "linewidth": 0.8}
    boxes.bar(at, np.log2(sides) + 1, **style)
    top, crowded = np.log2(sides.max()) + 1.3, len(parts) > MOST_INDICES
    for number, stage in enumerate(dict.fromkeys(part.stage for part in parts)):
        columns = [index for index, part in enumerate(parts) if part.stage == stage]
        c, t, h, w = parts[columns[-1]].shape
        side, shift = {"stem": ("right", 0.4), "head": ("left", -0.4)}.get(stage, ("center", 0))
        height = top + (3.6 if crowded and number % 2 else 0)  # narrow stages: every other label lies higher
        text = f"{stage}\n{c} x {t}\n{h} x {w}"
        boxes.text(np.mean(columns) + shift, height, text, ha=side, va="bottom", fontsize=9, linespacing=1.3)
        if len(columns) > 1:
            boxes.plot((columns[0] - 0.4, columns[-1] + 0.4), (top - 0.1, top - 0.1), color="0.25", lw=1)
            for index in () if crowded else columns:
                colour = "white" if parts[index].replaced else "black"
                boxes.text(index, 0.5, parts[index].index, ha="center", va="center", fontsize=9, color=colour)
    marks = sorted(set(sides.tolist()))
    boxes.set_yticks(np.log2(marks) + 1, marks)
    boxes.set(ylabel="H = W, pixels (log)", ylim=(0, top + (7.6 if crowded else 3.6)), title=title)
    costs.bar(at, [part.gflops for part in parts], **style)
    for index, (part, old) in enumerate(zip(parts, plain, strict=True)):
        if part.replaced:  # the outline of a cheaper block lies on the dark bar
            edge = "white" if part.gflops > old.gflops else "black"
            costs.bar(index, old.gflops, 0.86, facecolor="none", edgecolor=edge, linestyle="--")
    most = max(part.gflops for part in (*parts, *plain))
    costs.set(ylim=(0, 1.25 * most), ylabel="GFLOPs", xticks=[])  # room for the legend
    costs.set_xlabel("from the clip to the scores, one bar per block")
    costs.set_xlim((-3.4, len(parts) + 4.2) if crowded else (-1.5, len(parts) + 1))
    legend = {
        "ResBlock": (PALE, "0.25", "-"),
        module: (DARK, "0.25", "-"),
        "replaced ResBlock": ("none", "black", "--"),
    }
    handles = [Patch(fc=face, ec=edge, ls=line, label=name) for name, (face, edge, line) in legend.items()]
    costs.legend(handles=handles, fontsize=9, ncols=3, loc="upper right")
    for axes in (boxes, costs):
        axes.grid(axis="x", visible=False)
    return figure


def by_stage(table: pd.DataFrame, title: str, ylabel: str, stacked: bool = False) -> Figure:
    """Bars with their values: one group per row of the table (a stage), one bar, or part of it, per column."""
    figure = canvas(9.8, 3.6, left=0.06, right=0.995, top=0.82, bottom=0.08)
    figure.suptitle(title, fontsize="medium")
    axes = figure.add_subplot()
    colours = [PALE, DARK, BLUE, "white", "0.65", "0.4"][: len(table.columns)]
    colours = ["white" if name.startswith("C3D") else colour for name, colour in zip(table, colours, strict=True)]
    table.plot.bar(ax=axes, width=0.84, rot=0, color=colours, ec="0.25", lw=0.8, stacked=stacked)
    for bars in () if stacked else axes.containers:
        axes.bar_label(bars, fmt="%.1f", fontsize=9)
    axes.margins(y=0.12)
    axes.set(xlabel="", ylabel=ylabel)
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=9, ncols=len(table.columns), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


# ---------------------------------------------------------------- exercises


@solved_by("""
stage_2 = (1,)  # to fill in
stage_3 = (1, 3)  # to fill in
stage_4 = (1, 3, 5)  # to fill in
stage_5 = (1,)  # to fill in
blocks = [stage_2, stage_3, stage_4, stage_5]
""")
def _check_4_1(answers: dict) -> str:
    right = (1,), (1, 3), (1, 3, 5), (1,)
    blocks = [plain(given(part)) for part in given(answers["blocks"])]
    if len(blocks) != len(right):
        raise NotYet(f"ResNet has four stages of blocks, 2 to 5; you give {len(blocks)}")
    for number, depth, mine, theirs in zip((2, 3, 4, 5), (3, 4, 6, 3), blocks, right, strict=True):
        if not isinstance(mine, tuple):
            raise NotYet(f"Stage {number}: {mine!r} is no tuple; a tuple of one number has a comma, ({mine!r},)")
        if 0 in mine:
            raise NotYet(f"Stage {number}: block 0 changes the shape, so its shortcut is no identity; it stays")
        if any(not 0 < index < depth for index in mine):
            raise NotYet(f"Stage {number} has {depth} blocks, 0 to {depth - 1}; you name {mine}")
        if mine != theirs:
            raise NotYet(f"Stage {number}: every other block of {list(range(depth))}, starting at 1; you have {mine}")
    return 'Seven: the "+7 stage2-5" of Table 2e.'


@solved_by("""
shape = (1024, 16, 14, 14)  # to fill in
""")
def _check_4_2(answers: dict) -> str:
    expect(
        answers["shape"], (1024, 16, 14, 14),
        {
            (1024, 8, 14, 14): "T is halved nowhere: neither ResNet's strides nor a CT-Module change time",
            (1024, 16, 16, 16): "That is for 256 pixels: 224 are halved four times by here",
            (256, 16, 14, 14): "256 is the width within a block; its output has four times as many",
            (1024, 16, 7, 7): "7 x 7 is stage 5: stem and pooling halve twice, stages 3 and 4 once each",
        },
        "{value} is not (C, T, H, W) after stage 4: 4 times 256 channels, all frames, 224 / 16 pixels",
    )  # fmt: skip
    return "Stage 5 then gives (2048, 16, 7, 7), which the head averages to 2048 numbers per frame."


@solved_by("""
def on_clips(module, frames, num_frames):
    c, h, w = frames.shape[1:]
    clips = frames.unflatten(0, (-1, num_frames)).transpose(1, 2)  # to correct: frames.reshape(-1, c, num_frames, h, w)
    return module(clips).transpose(1, 2).flatten(0, 1)
""")
def _check_4_3(answers: dict) -> str:
    on_clips, seen = answers["on_clips"], []

    def module(clips):
        seen.append(clips)
        return clips.cumsum(2)  # each frame depends on earlier frames, and on no other channel

    clips = torch.arange(2.0 * 3 * 4 * 5 * 5).view(2, 3, 4, 5, 5)
    result = given(on_clips(module, frames_of(clips), 4))
    if not seen:
        raise NotYet("`module` is never called")
    if seen[0].shape != clips.shape:
        raise NotYet(f"`module` got {tuple(seen[0].shape)}, needed (N, C, T, H, W) = {tuple(clips.shape)}")
    if not torch.equal(seen[0], clips):
        raise NotYet(
            "The shape is right but the content is not. The frames of a clip follow one another, each with all its "
            "channels. First split N * T in two, then swap the axes"
        )
    if result.shape != frames_of(clips).shape or not torch.equal(clips_of(result, 4), clips.cumsum(2)):
        raise NotYet("Return the module's output as frames, (N * T, C, H, W), in their old order")
    return "Reshaping never moves a number; `transpose` does."


@solved_by("""
def share(channels, sizes):
    return (sum(sizes) * (9 + 3) + (len(sizes) - 1) * channels) / (9 * channels)  # to fill in
""")
def _check_4_4(answers: dict) -> str:
    share = answers["share"]
    for channels, sizes in ((64, (8, 8)), (512, (32, 16)), (64, (4, 4, 4))):
        between = (len(sizes) - 1) * channels
        right = 12 * sum(sizes) + between  # inputs of an output channel; the 3x3 convolution has 9 * channels
        mine = float(given(share(channels, sizes))) * 9 * channels
        wrong = {
            12 * sum(sizes): "the dense point-wise convolution is missing, C * C products",
            12 * sum(sizes) + channels: "between K sub-operations there are K - 1 point-wise convolutions",
            27 * sum(sizes) + between: "space and time are parallel: h w + t, not t h w",
            9 * sum(sizes) + between: "the temporal convolution is missing: h w + t",
            right / 3: "it replaces the 2D convolution, 9 C * C products, not a 3D one",
        }
        other = f"the share is {right / 9 / channels:.4f}, your function says {mine / 9 / channels:.4f}"
        place = f"C = {channels} = {by(sizes)}: "
        expect(mine, right, {value: place + why for value, why in wrong.items()}, place + other)
    return "0.44 of the 3x3 convolution at C = 64, 0.24 at C = 512: wider layers save more."


@solved_by("""
blocks_of_mine = ((1, 2), (1, 2, 3), (1, 3), ())  # to fill in
""")
def _check_4_5(answers: dict) -> str:
    blocks = given(answers["blocks_of_mine"])
    try:
        parts = anatomy.parts(ModelConfig(blocks=tuple(map(tuple, blocks))))
    except (ValueError, TypeError) as error:
        raise NotYet(f"Four tuples of indices are needed, for stages 2 to 5: {error}") from None
    gflops, kept = anatomy.gflops(parts), anatomy.kept(parts)
    if gflops > 38:
        raise NotYet(f"{gflops:.2f} GFLOPs, more than 38. Every CT-Block saves some; which stage saves most per block?")
    if kept < 92:
        raise NotYet(f"{kept:.1f} % of ImageNet's weights stay, fewer than 92 %. Which stage's blocks hold most?")
    paper = anatomy.parts(ModelConfig())
    published = f"{anatomy.gflops(paper):.2f} and {anatomy.kept(paper):.1f} %"
    return f"{gflops:.2f} GFLOPs, {kept:.1f} % of the weights stay; the paper's placement has {published}."
