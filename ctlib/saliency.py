"""Saliency Tubes (section 4.3, Figure 3): where in space and time the evidence for a class is.

The head of our networks is linear on averages. A class's score is its bias plus the mean, over the T x h x w
positions of the last activations, of the class's weights times the activation there. Those products are the raw
map. Its mean *is* the score minus the bias, so it states exactly how much each position adds or subtracts.
The receptive field of a position is much wider than the position itself.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ctlib import checkpoints
from ctlib.backbones import ResNetBackbone
from ctlib.checkpoints import Checkpoint
from ctlib.config import Config, at_least, check_choice, one_of, unknown_name
from ctlib.cost import eval_with_hooks
from ctlib.data.sampling import SAMPLINGS
from ctlib.data.views import View, complete
from ctlib.models import check_finite, refuse_boxes, unwrapped

Target = int | str | Sequence[int | str] | torch.Tensor | None
NORMALISED = ("clip", "frame")
PLACEMENTS = ("even", "seen")
SMALLEST_MAP = 4  # positions in height and width; of fewer, a tube would not show where


def saliency_tubes(
    model: nn.Module | Checkpoint,
    clips: torch.Tensor,
    target: Target = None,
    classes: Sequence[str] | None = None,
    threshold: float = 0.0,
    per: str = "clip",
    placement: str = "even",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in each clip the evidence for a class is: the raw map, resized to the clip and scaled by `normalised`.

    Source: Stergiou et al., "Saliency Tubes" (ICIP 2019): the last activations of the whole clip times the
    classifier's weights of one class, resized to the clip. The scale is our choice.

    The receptive field of position i of a ResNet's map is centred on pixel 32 i. Resizing shows it at 32 i + 15.5,
    16 pixels further down and right. Where the last stage has no stride, both are half of that. `placement` chooses;
    notebooks/saliency_tubes.ipynb measures both.

    Args:
        model: a `models.VideoClassifier`, also compiled or wrapped for several processes, or a checkpoint. It runs
            in evaluation mode without gradients; afterwards, even after an error, it is as before.
        clips: as the model takes them, on its device.
        target: a class, by index or name, for all clips, or one for each; the predicted ones if not given.
        classes: names in label order, needed if `target` is a name; a checkpoint has its own.
        threshold, per: as in `normalised`.
        placement: "even" (as resized), or "seen": centred on the receptive fields (ResNets only).

    Shape:
        clips (N, 3, T, H, W), float -> tubes (N, T, H, W) in [0, 1] and scores (N, num_classes), both float32

    Raises:
        TypeError: clips of another dtype than the model's, or a model without a linear head on averages.
        ValueError: clips of another shape or on another device, an unknown class or placement, another number of
            targets than of clips, a threshold or `per` that `normalised` refuses, or a network that pools over the clip
            before its last layers (X3D, C3D).
    """
    tubes, scores, _ = _tubes(model, clips, target, classes, threshold, per, placement)
    return tubes, scores


def _tubes(
    model: nn.Module | Checkpoint,
    clips: torch.Tensor,
    target: Target,
    classes: Sequence[str] | None,
    threshold: float,
    per: str,
    placement: str,
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Tubes and scores as in `saliency_tubes`, and how many positions the maps have in height and width."""
    check_normalisation(threshold, per)
    check_choice("placement", placement, PLACEMENTS)
    stride = stride_of(model) if placement == "seen" else None
    if placement == "seen" and stride is None:
        raise ValueError("placement 'seen' needs a ResNet: use placement='even'")
    maps, scores = raw_maps(model, clips, target, classes)
    return normalised(resized(maps, clips.shape[2:], stride), threshold, per), scores, tuple(maps.shape[2:])


def too_coarse(positions: Sequence[int]) -> str:
    """Why maps of so many positions in height and width do not show where the network looks; empty if they do."""
    if min(positions) >= SMALLEST_MAP:
        return ""
    return f"no tube: the network's last map has {positions[0]} x {positions[1]} positions, too few to show where"


def raw_maps(
    model: nn.Module | Checkpoint, clips: torch.Tensor, target: Target = None, classes: Sequence[str] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each position of the last activations adds to a class's score: signed, neither resized nor scaled.

    The mean of a map is the class's score minus the classifier's bias. Arguments and errors as in `saliency_tubes`.

    Shape:
        clips (N, 3, T, H, W), float -> maps (N, T, h, w) and scores (N, num_classes), both float32
    """
    network, classes = _network(model), _names(model, classes)
    head = _linear_head(network)
    _check_clips(clips, head.weight)
    with torch.no_grad(), last_activations(network) as seen:
        scores = network.forward(clips).float()  # not a call, which may be compiled and skip hooks
        activations = seen().unflatten(0, (clips.shape[0], -1)).float()  # (N, t, C, h, w)
        labels = target_labels(target, scores, classes)
        weight, bias = head.weight.float(), 0 if head.bias is None else head.bias.float()
        averaged, sizes = activations.mean((1, 3, 4)), activations.abs().mean((1, 3, 4))
        _check_scores(scores, F.linear(averaged, weight) + bias, F.linear(sizes, weight.abs()) + abs(bias), network)
        return torch.einsum("ntchw,nc->nthw", activations, weight[labels]), scores


def resized(maps: torch.Tensor, size: Sequence[int], stride: int | None = None) -> torch.Tensor:
    """Maps resized to the clip's T, H and W by trilinear interpolation: (N, t, h, w) -> (N, T, H, W).

    Each position covers an equal part of the clip. So the mean is kept where T, H and W are multiples of t, h and w.
    With `stride`, position i is centred on pixel i * stride, and the last ones are repeated to the right and lower
    edge; this changes the mean. Time is treated the same in both.

    Raises:
        ValueError: positions so far apart that they do not fit into H and W.
    """
    if stride is None:
        return F.interpolate(maps[:, None], tuple(size), mode="trilinear", align_corners=False)[:, 0]
    reach = [(extent - 1) * stride + 1 for extent in maps.shape[2:]]
    if reach[0] > size[1] or reach[1] > size[2]:
        raise ValueError(
            f"{maps.shape[2]} x {maps.shape[3]} positions {stride} pixels apart do not fit into {tuple(size)}"
        )
    in_time = F.interpolate(maps[:, None], (size[0], *maps.shape[2:]), mode="trilinear", align_corners=False)
    wide = F.interpolate(in_time, (size[0], *reach), mode="trilinear", align_corners=True)
    return F.pad(wide, (0, size[2] - reach[1], 0, size[1] - reach[0], 0, 0), mode="replicate")[:, 0]


def stride_of(model: nn.Module | Checkpoint) -> int | None:
    """Pixels between the centres of neighbouring receptive fields, the first at pixel 0; None unless a ResNet."""
    network = _network(model)
    backbone = unwrapped(getattr(network, "backbone", network))
    return backbone.stride if isinstance(backbone, ResNetBackbone) else None


def normalised(maps: torch.Tensor, threshold: float = 0.0, per: str = "clip") -> torch.Tensor:
    """Maps divided by their maximum; negative values are 0: (N, T, H, W) in [0, 1].

    Evidence against the class is not shown, and a clip without evidence for it is 0 throughout.

    Args:
        maps: signed, of any scale.
        threshold: values below this share of the maximum become 0; from 0 up to, but not including, 1.
        per: "clip", so that frames can be compared, or "frame": each frame by its own maximum.

    Raises:
        ValueError: a threshold out of range, or `per` something else.
    """
    check_normalisation(threshold, per)
    maps = maps.clamp_min(0)
    greatest = maps.amax((1, 2, 3) if per == "clip" else (2, 3), keepdim=True)
    scaled = maps / greatest.clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.where(scaled >= threshold, scaled, 0)


def check_normalisation(threshold: float = 0.0, per: str = "clip") -> None:
    """Raise ValueError for a threshold out of range or an unknown `per`."""
    check_choice("per", per, NORMALISED)
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be a share of the maximum, from 0 to below 1, got {threshold}")


class Tube(NamedTuple):
    """A video, a network's scores for it, and the Saliency Tube of one class."""

    frames: np.ndarray  # uint8 (T, H, W, 3), as the network sees them
    tube: np.ndarray  # float32 (T, H, W), in [0, 1]
    scores: np.ndarray  # float32 (num_classes,), logits
    target: int  # the explained class
    predicted: int
    indices: np.ndarray  # int64 (T,), which frames of the video these are
    positions: tuple[int, int]  # of the network's last map, in height and width (`too_coarse`)


@dataclass(frozen=True)
class TubeOptions(Config):
    """How `tube_of` reads a video, and how the tube is scaled and placed. The first three, None: the checkpoint's."""

    num_frames: int | None = at_least(1, None)  # T; of a network alone, its own
    short_side: int | None = at_least(1, None)  # pixels of the shorter side before the crop; else as in testing
    sampling: str | None = one_of((None, *SAMPLINGS), None)  # which T frames are read; else sparse
    threshold: float = 0.0  # the last three are those of `saliency_tubes`
    per: str = one_of(NORMALISED, "clip")
    placement: str = one_of(PLACEMENTS, "even")

    def __post_init__(self):
        super().__post_init__()
        check_normalisation(self.threshold, self.per)


def tube_of(
    path: str | os.PathLike,
    model: nn.Module | Checkpoint | str | os.PathLike,
    target: int | str | None = None,
    classes: Sequence[str] | None = None,
    *,
    size: int | None = None,
    options: TubeOptions = TubeOptions(),
) -> Tube:
    """The Saliency Tube of a video file (or a folder of numbered images), read as in testing: one clip, one crop.

    A checkpoint remembers how its network is tested (`data.views.View`); what is given replaces that.

    Args:
        path: the video. If it is shorter than T, its frames repeat in order (`data.sampling`).
        model: as in `saliency_tubes`, or what `checkpoints.load` takes.
        target, classes: as in `saliency_tubes`; here for one clip.
        size: pixels, height and width of the crop; needed where no checkpoint says what the network was tested at.
        options: what differs from testing, or from the default look.

    Raises:
        video.VideoError: a video that is missing or cannot be read.
        ValueError, TypeError: as `saliency_tubes`, or no size, or an impossible one.
    """
    if isinstance(model, str | os.PathLike):
        model = checkpoints.load(model)
    head = _linear_head(_network(model))
    view = _view(model, size, options)
    clip, indices = view.read(path)
    given = clip[None].to(head.weight.device, head.weight.dtype)
    look = options.threshold, options.per, options.placement
    tubes, scores, positions = _tubes(model, given, target, classes, *look)
    label = int(target_labels(target, scores, _names(model, classes))[0])
    values = tubes[0].cpu().numpy(), scores[0].cpu().numpy()
    return Tube(view.pixels(clip), *values, label, int(scores[0].argmax()), indices, positions)


def _view(model: nn.Module | Checkpoint, size: int | None, options: TubeOptions) -> View:
    remembered = model.view if isinstance(model, Checkpoint) else None
    changes = {"size": size, **{name: getattr(options, name) for name in ("num_frames", "short_side", "sampling")}}
    if remembered is None:
        changes["num_frames"] = options.num_frames or _network(model).config.num_frames
        changes["sampling"] = options.sampling or "sparse"
    return complete(remembered, type(model).__name__, **changes)


@contextmanager
def last_activations(network: nn.Module) -> Iterator[Callable[[], torch.Tensor]]:
    """Inside, `network` is in evaluation mode and its backbone's output is recorded; afterwards it is as before.

    Yields:
        A function that returns the backbone's last output, (N * T, C, h, w). It raises RuntimeError if the
        backbone was not called, or called without its hooks.
    """
    seen: list[torch.Tensor] = []

    def keep(_backbone, _inputs, output) -> None:
        seen[:] = [output]

    def last() -> torch.Tensor:
        if not seen:
            raise RuntimeError("the backbone's output was not recorded: it was compiled, or called without its hooks")
        return seen[0]

    try:
        with eval_with_hooks(network, {network.backbone: keep}):
            yield last
    finally:
        seen.clear()


def target_labels(target: Target, scores: torch.Tensor, classes: Sequence[str] | None = None) -> torch.Tensor:
    """The class to explain for each clip, int64 (N,); `target` as in `saliency_tubes`, scores (N, num_classes).

    Raises:
        ValueError: an unknown class, a name without `classes`, or another number of targets than of clips.
    """
    count, num_classes = scores.shape
    if target is None:
        return scores.argmax(1)
    if classes is not None and len(classes) != num_classes:
        raise ValueError(f"classes must be the model's {num_classes} names, got {len(classes)}")
    given = target.tolist() if isinstance(target, (torch.Tensor, np.ndarray)) else target
    each = [given] * count if isinstance(given, str) or np.ndim(given) == 0 else list(given)
    if len(each) != count:
        raise ValueError(f"target must be one class, or one for each of the {count} clips, got {len(each)}")
    return torch.tensor([_label(one, num_classes, classes) for one in each], device=scores.device, dtype=torch.int64)


def _label(target: int | str, num_classes: int, classes: Sequence[str] | None) -> int:
    if isinstance(target, str):
        if classes is None:
            raise ValueError(f"target {target!r} is a name: give the classes' names in label order (classes)")
        if target not in classes:
            raise ValueError(unknown_name("class", target, classes))
        return list(classes).index(target)
    if isinstance(target, bool) or not isinstance(target, (int, np.integer)):
        raise TypeError(f"a target is a class's index or name, got {type(target).__name__} {target!r}")
    if not 0 <= target < num_classes:
        raise ValueError(f"target must be a class from 0 to {num_classes - 1}, got {target}")
    return int(target)


def _network(model: nn.Module | Checkpoint) -> nn.Module:
    return unwrapped(model.model if isinstance(model, Checkpoint) else model)


def _names(model: nn.Module | Checkpoint, classes: Sequence[str] | None) -> Sequence[str] | None:
    """The names of the classes: those given, or else a checkpoint's own."""
    return model.classes if classes is None and isinstance(model, Checkpoint) else classes


def _linear_head(network: nn.Module) -> nn.Linear:
    refuse_boxes(network, "saliency")
    head, backbone = getattr(network, "fc", None), getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module) or not isinstance(head, nn.Linear):
        parts = f"backbone: {type(backbone).__name__}, fc: {type(head).__name__}"
        raise TypeError(
            f"saliency needs a network with a backbone and a linear classifier fc on its averages, got "
            f"{type(network).__name__} ({parts})"
        )
    if getattr(backbone, "pooled", False):
        name = network.config.backbone
        raise ValueError(f"{name!r} pools over the clip before its last layers: there is no map to explain a score by")
    return head


def _check_scores(scores: torch.Tensor, linear: torch.Tensor, summed: torch.Tensor, network: nn.Module) -> None:
    """Check the assumption of the maps; without it they would look as good and be wrong. `summed` has no signs."""
    check_finite(scores)
    off = ((scores - linear).abs() / summed.clamp_min(torch.finfo(torch.float32).tiny)).max().item()
    if off > 0.01:  # of the sum of sizes: room for 16-bit arithmetic
        raise TypeError(
            f"saliency needs scores that are linear in the backbone's averaged activations; those of "
            f"{type(network).__name__} differ from that by up to {100 * off:.3g} %"
        )


def _check_clips(clips: torch.Tensor, weight: torch.Tensor) -> None:
    if not isinstance(clips, torch.Tensor) or not clips.is_floating_point():
        kind = clips.dtype if isinstance(clips, torch.Tensor) else type(clips).__name__
        raise TypeError(f"clips must be a float tensor, normalised as in testing, got {kind}")
    if clips.ndim != 5 or clips.shape[1] != 3 or 0 in clips.shape:
        raise ValueError(f"clips must be (N, 3, T, H, W), none of them 0, got {tuple(clips.shape)}")
    if clips.device != weight.device:
        raise ValueError(f"clips must be on the model's device, {weight.device}, got {clips.device}")
    if clips.dtype != weight.dtype and not torch.is_autocast_enabled(clips.device.type):
        raise TypeError(f"clips must be of the model's dtype, {weight.dtype}, got {clips.dtype}")
