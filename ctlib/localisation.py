"""Whether Saliency Tubes lie on what acts: Figure 3's claim, "localize ... better both in space and time", as numbers.

On the built-in data it is known where the object is in each frame, and in which frames it acts
(`data.arrow.truth`). Each number stands beside three controls and there is no mark to pass: the object's share of
the picture, the same maps with their places shuffled, and a network with random weights, which is not at chance.
"""

import dataclasses
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ctlib import runs, saliency
from ctlib.checkpoints import Checkpoint
from ctlib.config import ModelConfig, RunConfig, check_choice
from ctlib.data import arrow, transforms
from ctlib.data.clips import ClipDataset
from ctlib.evaluate import interval
from ctlib.models import build_model
from ctlib.recipes import run_config
from ctlib.runs import RunFolder
from ctlib.train import train

OWN, EVEN, SHUFFLED = "network", "evenly placed", "places shuffled"


class Truths(NamedTuple):
    """What is known of the clips of a list, as the network sees them."""

    masks: torch.Tensor  # bool (clips, T, H, W), where the acting object is
    acting: torch.Tensor  # bool (clips, T), the frames in which it acts


def truths(dataset: ClipDataset, on_step: Callable[[int, int], None] | None = None) -> Truths:
    """Object and action in every clip of a test list of Arrow of Time, drawn again from its seed.

    Masks are brought to size and cropped as the clips are; a pixel is the object's if half of it is.

    Args:
        dataset: in testing, one clip and one crop a video.
        on_step: called with the videos done and their number.

    Raises:
        ValueError: other views, or another data set.
    """
    if dataset.train or dataset.clips * dataset.crops != 1:
        raise ValueError("localisation is measured on one test clip x one crop a video")
    samples, masks, acting = dataset.samples, [], []
    for index in range(len(samples)):
        known = arrow.truth(samples.root, samples.path(index))
        frames = dataset.sampling.test(len(known.mask), dataset.num_frames, 1)[0]
        mask = torch.from_numpy(known.mask[frames])[None].float()
        mask = F.interpolate(mask, (dataset.short_side, dataset.short_side), mode="area")[0]
        top, left, height, width = transforms.test_crops(*mask.shape[1:], dataset.size, 1)[0]
        masks.append(mask[:, top : top + height, left : left + width] >= 0.5)
        acting.append(torch.from_numpy(known.acting[frames]))
        if on_step is not None:
            on_step(index + 1, len(samples))
    return Truths(torch.stack(masks), torch.stack(acting))


def measure(
    model: nn.Module | Checkpoint,
    dataset: ClipDataset,
    known: Truths,
    batch: int = 16,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Explain what the network predicts of each clip of a list, and compare with where the object is.

    A frame in which nothing speaks for the class counts as a map that is the same everywhere, and so does a
    clip; where several places are the greatest, each is pointed at in part. Thus no answer scores as chance does.

    Args:
        model: as `saliency.saliency_tubes` takes it.
        dataset, known: the list and what is known of it, `truths`.
        batch: clips at once.
        seed: of the shuffled places.
        on_step: called with the clips done and their number.

    Returns:
        A row a frame, three times: `of` is "network", each place of the map where what it has seen is centred; "evenly
        placed", as Saliency Tubes usually are, half a place too far to the right and down; or "places shuffled", those
        of all frames of the last activations together. Columns: `source`, `frame`, `label`, `predicted`, `area` (the
        object's share of the frame), `share` (of the frame's saliency that lies on the object), `hit` (whether the
        greatest value does), `mass` (the frame's share of the clip's saliency) and `acting`.

    Raises:
        ValueError: a network that is no ResNet (`saliency.stride_of`).
    """
    network = model.model if isinstance(model, Checkpoint) else model
    weight = next(network.parameters())
    stride = saliency.stride_of(model)
    rng, rows, done = np.random.default_rng(seed), [], 0
    for views, labels in DataLoader(dataset, batch_size=batch):
        clips = views[:, 0]
        maps, scores = saliency.raw_maps(model, clips.to(weight.device, weight.dtype))
        maps, predicted = maps.cpu(), scores.argmax(1).cpu()
        here = slice(done, done + len(clips))
        for of, shown, apart in ((OWN, maps, stride), (EVEN, maps, None), (SHUFFLED, shuffled(maps, rng), stride)):
            tubes = saliency.normalised(saliency.resized(shown, clips.shape[2:], apart))
            scored = frame_scores(tubes, known.masks[here])
            scored["acting"] = known.acting[here]
            for at in range(len(clips)):
                about = {"of": of, "source": dataset.samples.path(done + at), "label": labels[at].item()}
                about |= {"predicted": predicted[at].item(), "frame": range(dataset.num_frames)}
                rows.append(pd.DataFrame(about | {name: values[at].numpy() for name, values in scored.items()}))
        done += len(clips)
        if on_step is not None:
            on_step(done, len(dataset))
    return pd.concat(rows, ignore_index=True)


def shuffled(maps: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The same values at other places, over all frames, drawn anew for each clip: (N, T, h, w) -> the same."""
    places = maps[0].numel()
    order = torch.from_numpy(np.stack([rng.permutation(places) for _ in maps]))
    return maps.flatten(1).gather(1, order).view_as(maps)


def frame_scores(tubes: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """How saliency lies to the object, frame by frame: tubes (N, T, H, W), none negative, and bool masks of that shape.

    Returns:
        `area`, `share`, `hit` and `mass`, each (N, T), in [0, 1], as in `measure`.

    Raises:
        ValueError: shapes that differ, or negative saliency.
    """
    if tubes.shape != masks.shape or tubes.ndim != 4:
        raise ValueError(f"tubes and masks must both be (N, T, H, W), got {tuple(tubes.shape)}, {tuple(masks.shape)}")
    if (tubes < 0).any():
        raise ValueError(f"saliency must not be negative (see saliency.normalised), got {tubes.min().item():.3g}")
    tubes, inside = tubes.double(), masks.double()
    area, total = inside.mean((2, 3)), tubes.sum((2, 3))
    share = torch.where(total > 0, (tubes * inside).sum((2, 3)) / total.clamp_min(1e-300), area)
    greatest = (tubes == tubes.amax((2, 3), keepdim=True)).double()
    hit = (greatest * inside).sum((2, 3)) / greatest.sum((2, 3))
    whole = total.sum(1, keepdim=True)
    mass = torch.where(whole > 0, total / whole.clamp_min(1e-300), 1 / tubes.shape[1])
    return {"area": area, "share": share, "hit": hit, "mass": mass}


def by_clip(frames: pd.DataFrame) -> pd.DataFrame:
    """Frames to clips, of `measure`'s rows or of several networks' together (a column `network` tells them apart).

    Returns:
        A row a clip, network and `of`: `area`, `share`, `hit`, means over the frames in which the object is seen; and
        `area_time` (the share of frames in which it acts), `share_time` (of the saliency that lies in these) and
        `hit_time` (whether the frame with the most does), missing for clips in which it acts in all frames or in none.
    """
    keys = [name for name in ("network", "seed", "of", "source", "label", "predicted") if name in frames]
    in_space = frames[frames.area > 0].groupby(keys)[["area", "share", "hit"]].mean()
    acting = frames.acting.astype(float)
    most = (frames.mass >= frames.groupby(keys).mass.transform("max") * (1 - 1e-12)).astype(float)
    timed = frames[keys].assign(area_time=acting, share_time=acting * frames.mass, most=most, acting_most=acting * most)
    grouped = timed.groupby(keys)
    in_time = pd.DataFrame({"area_time": grouped.area_time.mean(), "share_time": grouped.share_time.sum()})
    in_time["hit_time"] = grouped.acting_most.sum() / grouped.most.sum()
    in_time[(in_time.area_time == 0) | (in_time.area_time == 1)] = np.nan
    return in_space.join(in_time, how="outer").reset_index()


def summary(clips: pd.DataFrame) -> pd.DataFrame:
    """Clips to one row a network, training and `of`, in percent.

    Args:
        clips: of `by_clip`, with columns `network` and `seed`.

    Returns:
        `network`, `seed`, `of`, `top1`, the means `area`, `share`, `hit`, `area_time`, `share_time`, `hit_time`, for
        all but the areas half of the 95 % interval over mirrored pairs of videos (`share_half`, ...), and how many
        `clips` and `clips_time` (that act in a part of the clip) there were.
    """
    rows = []
    for (network, seed, of), part in clips.groupby(["network", "seed", "of"], sort=False):
        row = {"network": network, "seed": seed, "of": of, "top1": 100 * (part.label == part.predicted).mean()}
        row |= {"clips": len(part), "clips_time": int(part.area_time.notna().sum())}
        for name in ("area", "share", "hit", "area_time", "share_time", "hit_time"):
            read = part[part[name].notna()]
            mean, half = math.nan, math.nan
            if len(read):
                mean, half = interval(read[name].to_numpy(), [arrow.pair_of(source) for source in read.source])
            row |= {name: mean} | ({} if name.startswith("area") else {f"{name}_half": half})
        rows.append(row)
    return pd.DataFrame(rows)


MEASURES = {
    "share": "saliency on the object",
    "hit": "pointing at it",
    "share_time": "saliency while it acts",
    "hit_time": "strongest frame while it acts",
}


def differences(clips: pd.DataFrame, reference: str) -> pd.DataFrame:
    """How much more a network localises than each of the others, on the same videos, in points of percent.

    Args:
        clips: of `by_clip`, of several networks.
        reference: the network that the others are compared with.

    Returns:
        A row a network and measure: `mean` (reference less the other, seeds averaged), `half` of its 95 % t interval
        over mirrored pairs of videos, `spread` (standard deviation over seeds of the difference, missing with one
        seed), and whether it is `resolved`: beyond both. With one seed nothing is.
    """
    own = clips[clips.of == OWN].assign(pair=clips.source.map(arrow.pair_of))
    rows = []
    for other in [name for name in own.network.unique() if name != reference]:
        for measure_ in MEASURES:
            each = own.pivot_table(index=["seed", "pair"], columns="network", values=measure_)
            if not {reference, other} <= set(each):
                continue  # no clip acts in a part of it
            each = 100 * (each[reference] - each[other]).dropna()
            pairs, seeds = each.groupby("pair").mean(), each.groupby("seed").mean()
            count, spread = len(pairs), seeds.std()
            half = stats.t.ppf(0.975, count - 1) * stats.sem(pairs) if count > 1 else math.nan
            resolved = bool(len(seeds) > 1 and abs(pairs.mean()) > max(half, spread))
            row = {"network": other, "measure": measure_, "mean": pairs.mean(), "half": half, "spread": spread}
            rows.append(row | {"seeds": len(seeds), "resolved": resolved})
    return pd.DataFrame(rows)


def told(table: pd.DataFrame, compared: pd.DataFrame, reference: str) -> str:
    """What was found, in words. Arguments: of `summary`, of `differences`, and the network that it was made for."""
    lines = []
    for row in table[table.of == OWN].itertuples():
        text = f"{row.network}, seed {row.seed}: top-1 {row.top1:.1f} %; on the object {row.share:.1f} ± "
        text += f"{row.share_half:.1f} % of its saliency (the object's area: {row.area:.1f} %), pointing at it "
        text += f"{row.hit:.1f} ± {row.hit_half:.1f} %"
        if row.clips_time:
            text += f"; while it acts {row.share_time:.1f} ± {row.share_time_half:.1f} % (of the frames: "
            text += f"{row.area_time:.1f} %)"
        lines.append(text)
    for row in compared.itertuples():
        text = f"  {MEASURES[row.measure]}, {reference} less {row.network}: {row.mean:+.1f} ± {row.half:.1f} points"
        if row.seeds < 2:
            beyond = "beyond" if abs(row.mean) > row.half else "within"
            lines.append(f"{text}, {beyond} what other videos would change; one training each: not resolved")
        else:
            lines.append(
                f"{text}, spread over {row.seeds} seeds {row.spread:.1f}: {'' if row.resolved else 'not '}resolved"
            )
    return "\n".join(lines)


# ---------------------------------------------------------------- small networks to measure

# Figure 3's three, the one that it leaves out, and TSN, which sees no time at all.
NETWORKS = {
    "TSN": ("tsn_quickstart", ""),
    "C3D": ("ctnet_quickstart", "model.module=c3d"),
    "R(2+1)D": ("ctnet_quickstart", "model.module=r2plus1d"),
    "CSN": ("ctnet_quickstart", "model.module=csn"),
    "CT-Net": ("ctnet_quickstart", ""),
}
# Trained on small clips first, as most of what there is to learn can be learned there in a tenth of the time,
# then at the size at which the last activations have places enough. Sized for ten minutes, not tuned.
_ARROW = {"arrow.train_clips": 640, "arrow.val_clips": 160, "arrow.size": 128, "arrow.difficulty": 0.0}
_SMALL = {"data.size": 32, "recipe.batch": 8, "recipe.epochs": 9}
_LARGE = {"data.size": 128, "recipe.batch": 8, "recipe.epochs": 2, "recipe.lr": 0.03, "recipe.warmup": 0.1}


def trainings(
    network: str, seed: int, size: int = 128, overrides: str = "", **given
) -> tuple[tuple[RunConfig, arrow.ArrowConfig], tuple[RunConfig, arrow.ArrowConfig]]:
    """The two trainings of a network of `NETWORKS` on Arrow of Time: on small clips, and from there at `size`.

    The second starts from the first's checkpoint, which the caller fills in (`RunConfig.start`).

    Args:
        network: a name of `NETWORKS`.
        seed: of both.
        size: pixels, of the second and of the videos.
        overrides: of both, as `recipes.run_config` takes them.
        given: of both, likewise, such as `**{"recipe.epochs": 1}`.

    Raises:
        ValueError: an unknown network or part.
    """
    check_choice("network", network, NETWORKS)
    model, parts = NETWORKS[network]
    both = {"seed": seed} | _ARROW | {"arrow.size": size}
    text = f"{parts} {overrides}"
    small = run_config("arrow", model, "laptop", text, name=f"{network}_small", **(both | _SMALL | given))
    large = run_config("arrow", model, "laptop", text, name=network, **(both | _LARGE | {"data.size": size} | given))
    return small, large


def train_all(
    pairs: Sequence[tuple[RunConfig, RunConfig]], out_dir: str | Path, jobs: int = 1
) -> Iterator[tuple[RunConfig, dict]]:
    """Both trainings of each network, found where they are finished; each run and its `result.json`, as they are done.

    With several jobs as many trainings go on side by side, in processes of their own.

    Raises:
        ValueError: fewer than one job; else as `train.train`, when those beside it have come to their end.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")

    def begun(config: RunConfig) -> Future:
        return pool.submit(train, config, RunFolder.of(config, out_dir).path)

    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {begun(small): (small, large) for small, large in pairs}
        while waiting:
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                config, following = waiting.pop(done)
                yield config, done.result()
                if following is not None:
                    start = runs.portable(RunFolder.of(config, out_dir).checkpoint)
                    following = dataclasses.replace(following, start=start)
                    waiting[begun(following)] = following, None


def untrained(config: ModelConfig, seed: int = 0) -> nn.Module:
    """The network with random weights, in evaluation mode: the third control. The global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(config).eval()


def picked(text: str, count: int) -> Sequence[int]:
    """The clips that "0 7 12" names, of `count`.

    Raises:
        ValueError: something else than their numbers.
    """
    words = text.split()
    if not words or not all(word.isdigit() and int(word) < count for word in words):
        raise ValueError(f"clips must be numbers from 0 to {count - 1} between spaces, got {text!r}")
    return [int(word) for word in words]
