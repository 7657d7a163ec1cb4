"""Whether Saliency Tubes lie on what acts: Figure 3's claim, "localize ... better both in space and time", as numbers.

On the built-in data it is known where the object is in each frame, and in which frames it acts
(`data.arrow.truth`). Each number stands beside three controls and there is no mark to pass: the object's share of
the picture, the same maps with their places shuffled, and a network with random weights, which is not at chance.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ctlib import saliency
from ctlib.checkpoints import Checkpoint
from ctlib.config import ModelConfig
from ctlib.data import arrow, transforms
from ctlib.data.clips import ClipDataset
from ctlib.models import build_model
from ctlib.training.evaluate import interval

OWN, SEEN, SHUFFLED = "network", "placed where seen", "places shuffled"
RANDOM = ", random weights"  # ends the name of a network that was not trained


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
        A row a frame, two or three times: `of` is "network", as Saliency Tubes are; "places shuffled", those of all
        frames of the last activations together; or, of a ResNet, "placed where seen" (`saliency.resized`, with a
        stride). Columns: `source`, `frame`, `label`, `predicted`, `area` (the
        object's share of the frame), `share` (of the frame's saliency that lies on the object), `hit` (whether the
        greatest value does), `mass` (the frame's share of the clip's saliency) and `acting`.
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
        kinds = [(OWN, maps, None), (SHUFFLED, shuffled(maps, rng), None)]
        kinds += [(SEEN, maps, stride)] if stride else []
        for of, shown, apart in kinds:
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


def differences(clips: pd.DataFrame, reference: str, of: str = OWN) -> pd.DataFrame:
    """How much more a network localises than each of the others, on the same videos, in points of percent.

    Args:
        clips: of `by_clip`, of several networks.
        reference: the network that the others are compared with.
        of: which maps of each, a value of that column.

    Returns:
        A row a network and measure: `of`, `mean` (reference less the other, seeds averaged), `half` of its 95 % t
        interval over mirrored pairs of videos, `spread` (standard deviation over seeds of the difference, missing with
        one seed), and whether it is `resolved`: beyond both. With one seed nothing is.
    """
    own = clips[clips.of == of]
    own = own.assign(pair=own.source.map(arrow.pair_of))
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
            row = {
                "network": other,
                "of": of,
                "measure": measure_,
                "mean": pairs.mean(),
                "half": half,
                "spread": spread,
            }
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


def beyond_random(table: pd.DataFrame, of: str = OWN) -> str:
    """Which networks localise more than with random weights, and which less, measure by measure, in words.

    `of` says how the maps are placed. More or less is where the two 95 % intervals of `summary` lie apart, in all
    trainings of a network.
    """
    own = table[table.of == of]
    named = own.network.str.removesuffix(RANDOM)
    random = own.network.str.endswith(RANDOM)
    both = own[~random].merge(own[random].assign(network=named), on=["network", "seed"], suffixes=("", "_random"))
    lines = []
    for measure_, title in MEASURES.items():
        apart = both[measure_] - both[f"{measure_}_random"]
        beyond = apart.abs() > both[f"{measure_}_half"] + both[f"{measure_}_half_random"]
        sign = np.sign(apart).where(beyond, 0).groupby(both.network, sort=False)
        more, less = (", ".join(side.index[side]) or "none" for side in (sign.min() > 0, sign.max() < 0))
        lines.append(f"{title}, beside random weights: more in {more}; less in {less}")
    return "\n".join(lines)


def placed_told(table: pd.DataFrame) -> str:
    """In how many trainings saliency lies on the object more as usual, and more placed where seen, in words."""
    if SEEN not in set(table.of):
        return "Only as usual: where places have seen is known of ResNets alone."
    share = table.pivot_table(index=["network", "seed"], columns="of", values="share")
    usual, seen = int((share[OWN] > share[SEEN]).sum()), int((share[OWN] < share[SEEN]).sum())
    return f"Saliency lies on the object more with maps as usual in {usual} trainings, placed where seen in {seen}."


def verdict(compared: pd.DataFrame, reference: str, others: Sequence[str] = ("R(2+1)D", "CSN")) -> str:
    """Whether Figure 3's claim is borne out here, in words: that the reference localises better than the others.

    Args:
        compared: of `differences`, made for the reference.
        others: the networks that the figure shows beside it.
    """
    rows = compared[compared.network.isin(others)]
    if not len(rows):
        return f"Figure 3's claim is not tried here: it compares {reference} with {' and '.join(others)}."
    ahead, behind = rows["mean"] > 0, rows["mean"] < 0
    told = [
        f"{int(which.sum())} {word} ({int((which & rows.resolved).sum())} resolved)"
        for word, which in (("for it", ahead), ("against it", behind))
    ]
    borne_out = bool((ahead & rows.resolved).all())
    return (
        f"Figure 3's claim, that {reference} localises better than {' and '.join(rows.network.unique())}, in space "
        f"and in time: of {len(rows)} differences {', '.join(told)}. {'Borne out' if borne_out else 'Not confirmed'} "
        "here."
    )


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
