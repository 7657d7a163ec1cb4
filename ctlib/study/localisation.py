"""Whether Saliency Tubes lie on what acts: Figure 3's claim, "localize ... better both in space and time", as numbers.

On the built-in data it is known where the object is in each frame, and in which frames it acts (`data.arrow.truth`).
Each number is shown beside three controls: the object's share of the picture, the same maps with their places
shuffled, and a network with random weights.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ctlib import saliency
from ctlib.checkpoints import Checkpoint
from ctlib.config import ModelConfig
from ctlib.data import arrow, transforms
from ctlib.data.actions import SETS, class_names
from ctlib.data.clips import ClipDataset
from ctlib.models import build_model
from ctlib.training.statistics import grouped_interval, mean_interval

OWN, SEEN, SHUFFLED = "network", "placed where seen", "places shuffled"  # kinds of maps
RANDOM = ", random weights"  # ends the name of a network that was not trained
MEASURES = {
    "share": "saliency on the object",
    "hit": "pointing at it",
    "share_time": "saliency while it acts",
    "hit_time": "strongest frame while it acts",
}


class Truths(NamedTuple):
    """What is known of the clips of a list, as the network sees them."""

    masks: torch.Tensor  # bool (clips, T, H, W), where the acting object is
    acting: torch.Tensor  # bool (clips, T), the frames in which it acts


def truths(dataset: ClipDataset, on_step: Callable[[int, int], None] | None = None) -> Truths:
    """Object and action in every clip of a test list of Arrow of Time, drawn again from its seed.

    Masks are resized and cropped as the clips are; a pixel belongs to the object if at least half of it does.

    Args:
        dataset: in testing, one clip and one crop per video.
        on_step: called with the videos done and their number.

    Raises:
        ValueError: other views, or another data set.
    """
    if dataset.train or dataset.clips * dataset.crops != 1:
        raise ValueError("localisation is measured on one test clip x one crop per video")
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
) -> pd.DataFrame:
    """Explain what the network predicts of each clip of a list, and compare with where the object is.

    A frame without saliency counts as a map that is the same everywhere, and so does a clip. If several places have
    the greatest value, each counts in part. So a network that explains nothing scores as chance does.

    Args:
        known: the `truths` of the data set.
        batch: clips at once.
        seed: of the shuffled places.

    Returns:
        One row per frame and kind of maps, `of`: "network", as Saliency Tubes are; "places shuffled", over all frames
        of the last activations; of a ResNet also "placed where seen" (`saliency.resized`, with a stride). Columns:
        `source`, `frame`, `label`, `predicted`, `area` (the object's share of the frame), `share` (of the frame's
        saliency that lies on the object), `hit` (whether the greatest value does), `mass` (the frame's share of the
        clip's saliency) and `acting`.
    """
    network = model.model if isinstance(model, Checkpoint) else model
    weight, stride = next(network.parameters()), saliency.stride_of(model)
    rng, rows, done = np.random.default_rng(seed), [], 0
    for views, labels in DataLoader(dataset, batch_size=batch):
        clips = views[:, 0]
        maps, scores = saliency.raw_maps(model, clips.to(weight.device, weight.dtype))
        maps, here = maps.cpu(), slice(done, done + len(clips))
        of_clips = {"source": [dataset.samples.path(index) for index in range(here.start, here.stop)]}
        of_clips = pd.DataFrame(of_clips | {"label": labels.numpy(), "predicted": scores.argmax(1).numpy(force=True)})
        of_frames = of_clips.merge(pd.DataFrame({"frame": range(dataset.num_frames)}), how="cross")
        kinds = [(OWN, maps, None), (SHUFFLED, shuffled(maps, rng), None)] + ([(SEEN, maps, stride)] if stride else [])
        for of, shown, apart in kinds:
            tubes = saliency.normalised(saliency.resized(shown, clips.shape[2:], apart))
            scored = frame_scores(tubes, known.masks[here]) | {"acting": known.acting[here]}
            rows.append(of_frames.assign(of=of, **{name: part.flatten().numpy() for name, part in scored.items()}))
        done += len(clips)
    return pd.concat(rows, ignore_index=True)


def shuffled(maps: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The same values at other places, over all frames, drawn for each clip: (N, T, h, w) -> the same shape."""
    places = maps[0].numel()
    order = torch.from_numpy(np.stack([rng.permutation(places) for _ in maps]))
    return maps.flatten(1).gather(1, order).view_as(maps)


def frame_scores(tubes: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """How saliency lies on the object, frame by frame.

    Args:
        tubes: (N, T, H, W), none negative.
        masks: bool, of the same shape.

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
    """Frames to clips.

    Args:
        frames: of `measure`, of one network or of several with columns `network` and `seed`.

    Returns:
        One row per clip, network and `of`: `area`, `share`, `hit`, means over the frames in which the object is seen;
        `area_time` (the share of frames in which it acts), `share_time` (of the saliency in these) and `hit_time`
        (whether the frame with the most saliency is one). The last three are missing for clips in which the object acts
        in all frames or in none.
    """
    keys = [name for name in ("network", "seed", "of", "source", "label", "predicted") if name in frames]
    in_space = frames[frames.area > 0].groupby(keys)[["area", "share", "hit"]].mean()
    acting = frames.acting.astype(float)
    most = frames.mass >= frames.groupby(keys).mass.transform("max") * (1 - 1e-12)
    timed = frames.assign(area_time=acting, share_time=acting * frames.mass, hit_time=acting.where(most))
    in_time = timed.groupby(keys).agg({"area_time": "mean", "share_time": "sum", "hit_time": "mean"})
    in_time[in_time.area_time.isin([0, 1])] = np.nan
    return in_space.join(in_time, how="outer").reset_index()


def by_action(clips: pd.DataFrame, classes: Sequence[str]) -> dict[str, pd.DataFrame]:
    """How often networks point at the object, and have their strongest frame while it acts, per action.

    Args:
        clips: of `by_clip`, with columns `network` and `seed`.
        classes: those of the test list.

    Returns:
        Measure (its title in `MEASURES`) -> percent, one row per trained network and one column per action: the means
        over clips and seeds, missing where the object acts in all frames. Empty for classes not of Arrow of Time.
    """
    known = next((names for names in SETS.values() if class_names(names) == tuple(classes)), None)
    if known is None:
        return {}
    own = clips[(clips.of == OWN) & ~clips.network.str.endswith(RANDOM)]
    own = own.assign(action=[known[label // 2] for label in own.label])
    shown = [name for name in known if name in set(own.action)]
    return {
        MEASURES[name]: 100
        * own.pivot_table(index="network", columns="action", values=name, sort=False, dropna=False)[shown]
        for name in ("hit", "hit_time")
    }


def summary(clips: pd.DataFrame) -> pd.DataFrame:
    """Clips to one row per network, training and kind of maps, in percent.

    Args:
        clips: of `by_clip`, with columns `network` and `seed`.

    Returns:
        `network`, `seed`, `of`, `top1`, the means `area`, `share`, `hit`, `area_time`, `share_time`, `hit_time`, the
        margins of their 95 % intervals over mirrored pairs of videos (`share_margin`, ...; none of the areas), and the
        number of `clips` and of `clips_time` (in which the object acts in a part of the frames).
    """
    rows, clips = [], clips.assign(pair=clips.source.map(arrow.pair_of))
    for (network, seed, of), part in clips.groupby(["network", "seed", "of"], sort=False):
        row = {"network": network, "seed": seed, "of": of, "top1": 100 * (part.label == part.predicted).mean()}
        row |= {"clips": len(part), "clips_time": part.area_time.count()}
        for name in ("area", "area_time", *MEASURES):
            known = part.dropna(subset=name)
            interval = grouped_interval(known[name].to_numpy(), known.pair) if len(known) else mean_interval([])
            row[name] = interval.mean
            if name in MEASURES:
                row[f"{name}_margin"] = interval.margin
        rows.append(row)
    return pd.DataFrame(rows)


def differences(clips: pd.DataFrame, reference: str, of: str = OWN) -> pd.DataFrame:
    """How much more a network localises than each of the others, on the same videos, in points of percent.

    Args:
        clips: of `by_clip`, of several networks.

    Returns:
        One row per network and measure: `of`, `mean` (reference minus the other, seeds averaged), `margin` of its 95 %
        t interval over mirrored pairs of videos, `margin_seeds` of that over seeds (missing with one), `seeds`, and
        `significant`: whether the mean exceeds both. With one seed no difference is significant.
    """
    own = clips[clips.of == of]
    own = own.assign(pair=own.source.map(arrow.pair_of))
    rows = []
    for other in [name for name in own.network.unique() if name != reference]:
        for name in MEASURES:
            each = own.pivot_table(index=["seed", "pair"], columns="network", values=name)
            if not {reference, other} <= set(each):
                continue  # no clip in which the object acts in a part of the frames
            each = 100 * (each[reference] - each[other]).dropna()
            pairs, by_seed = each.groupby("pair").mean(), each.groupby("seed").mean()
            margins = {"margin": mean_interval(pairs).margin, "margin_seeds": mean_interval(by_seed).margin}
            row = {"network": other, "of": of, "measure": name, "mean": pairs.mean(), **margins, "seeds": len(by_seed)}
            rows.append(row | {"significant": all(abs(pairs.mean()) > margin for margin in margins.values())})
    return pd.DataFrame(rows)


def beside_random(table: pd.DataFrame, of: str = OWN) -> pd.DataFrame:
    """Which networks localise more than they do with random weights, and which less.

    It is "more" or "less" where the two 95 % intervals lie apart in all trainings of a network.

    Args:
        table: of `summary`.

    Returns:
        One row per network and one column per measure: "more", "less" or "".
    """
    own = table[table.of == of]
    random = own.network.str.endswith(RANDOM)
    untrained = own[random].assign(network=own.network.str.removesuffix(RANDOM))
    both = own[~random].merge(untrained, on=["network", "seed"], suffixes=("", "_random"))
    columns = {}
    for name, title in MEASURES.items():
        apart = both[name] - both[f"{name}_random"]
        beyond = apart.abs() > both[f"{name}_margin"] + both[f"{name}_margin_random"]
        sign = np.sign(apart).where(beyond, 0).groupby(both.network, sort=False)
        columns[title] = np.where(sign.min() > 0, "more", np.where(sign.max() < 0, "less", ""))
    return pd.DataFrame(columns, index=list(dict.fromkeys(both.network)))


def claim(compared: pd.DataFrame) -> pd.DataFrame:
    """Figure 3's claim, that CT-Net localises better than the networks shown beside it, in space and in time.

    Args:
        compared: of `differences`, of one kind of maps or several.

    Returns:
        One row per kind of maps: the numbers of differences `for` and `against` the claim, how many of each are
        significant, and whether it is `confirmed`: all differences are for it, and significant. No row if none of the
        other networks was measured.
    """
    compared = compared[compared.network.isin(["R(2+1)D", "CSN"])]
    sides = pd.DataFrame({"for": compared["mean"] > 0, "against": compared["mean"] < 0})
    for at, side in ((1, "for"), (3, "against")):
        sides.insert(at, f"{side}, significant", sides[side] & compared.significant)
    kinds = sides.groupby(compared.of, sort=False)
    table = kinds.sum().rename_axis(None)
    return table.assign(confirmed=table["for, significant"] == kinds.size())


def untrained(config: ModelConfig, seed: int = 0) -> nn.Module:
    """The network with random weights, in evaluation mode: the third control. The global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(config).eval()
