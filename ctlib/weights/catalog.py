"""Weights by enumeration, as in torchvision: where each lies, how it was made, and what it reached in which test."""

import difflib
import os
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch
from torchvision.models import Weights as Entry
from torchvision.models import WeightsEnum, get_model_weights

from ctlib import files
from ctlib.data.shapes import QUESTIONS
from ctlib.data.views import View
from ctlib.weights import tensors

SUFFIX = ".safetensors"
DATA = {"imagenet": "ImageNet-1K", "shapes": "Still Shapes", "arrow": "Arrow of Time"}  # what each kind learned from


def packaged(kind: str, network: str) -> Path:
    """A file that ships with the package."""
    return Path(__file__).with_name(f"{kind}_{network}{SUFFIX}")


def _of_pictures(kind: str, network: str, url: str, view: partial, **meta) -> Entry:
    """A backbone's weights, tested on single pictures."""
    sides = {name: view.keywords[name] for name in ("size", "short_side")}
    own = {"kind": kind, "network": network, "data": DATA[kind], "num_frames": 1, **sides, "clips": 1, "crops": 1}
    return Entry(url, view, {**own, **meta})


def _imagenet(network: str, size: int, short_side: int, gflops: float) -> Entry:
    """torchvision's first weights of a network, with its accuracy."""
    theirs = get_model_weights(network).IMAGENET1K_V1
    view = partial(View, num_frames=8, size=size, short_side=short_side, sampling="sparse")
    return _of_pictures(
        *("imagenet", network, theirs.url, view),
        digest=theirs.url.rpartition("-")[2].removesuffix(".pth"),
        seed=None,
        top1=theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"],
        gflops=gflops,
        classes=tuple(theirs.meta["categories"]),
        record=theirs.meta["recipe"],
    )


def _shapes(network: str, digest: str, size: int, top1: float, gflops: float) -> Entry:
    """A backbone's weights of Still Shapes. `top1` is the mean over the questions, each recorded in whole percent."""
    view = partial(View, num_frames=8, size=size, short_side=size, sampling="sparse")
    return _of_pictures(
        *("shapes", network, packaged("shapes", network).as_uri(), view),
        digest=digest,
        seed=0,
        top1=top1,
        gflops=gflops,
        classes=tuple(QUESTIONS),
        record="6d6cba0",
    )


class _Trained:
    """A whole trained network, in place of an `Entry`: its file holds its record, and is read when it is asked for."""

    def __init__(self, kind: str, network: str, digest: str):
        self.own = {"kind": kind, "network": network, "data": DATA[kind], "digest": digest}
        self.url = packaged(kind, network).as_uri()

    @cached_property
    def header(self) -> dict:
        file = packaged(self.own["kind"], self.own["network"])
        try:
            return tensors.load(file)[0]
        except ValueError as error:
            raise ValueError(f"{file} {error}") from None

    @property
    def transforms(self) -> partial:
        return partial(View, **View.from_dict(self.header["view"]).to_dict())

    @property
    def meta(self) -> dict:
        record = self.header["record"]
        return {**record, **self.own, "classes": tuple(self.header["classes"]), "record": record["commit"]}


class Weights(WeightsEnum):
    """Trained weights, of the package or of torchvision. A member goes into `create_model(..., weights=...)`.

    `meta` says what they are: `kind` ("imagenet" and "shapes": a backbone's; "arrow": a whole network's), `network`,
    `digest`, `data`, `seed`, the protocol of the test (`num_frames`, `size`, `short_side`, `clips`, `crops`), `top1`
    (percent), `gflops` (of one view, without a backbone's classifier), `classes` (of Still Shapes: its questions) and
    `record` (the commit or page that made them).

    `transforms()` makes the `View` that a network with these weights expects. It is called with a video file or with
    uint8 frames (T, H, W, 3), and gives a float clip (3, T, size, size).

    Example:
        >>> Weights.QUICKSTART_SHAPES.meta["network"], Weights.QUICKSTART_SHAPES.transforms().size
        ('quickstart', 48)
    """

    RESNET50_IMAGENET = _imagenet("resnet50", 224, 256, 4.1094)
    RESNET101_IMAGENET = _imagenet("resnet101", 224, 256, 7.8318)
    INCEPTION_V3_IMAGENET = _imagenet("inception_v3", 299, 342, 5.7291)
    QUICKSTART_SHAPES = _shapes("quickstart", "9f7034883250c4c6", 48, 84.1, 0.0090)
    LAPTOP_SHAPES = _shapes("laptop", "efb29ef5f85e3a3d", 64, 87.0, 0.0340)
    LAPTOP_INCEPTION_SHAPES = _shapes("laptop_inception", "b78b797a48bdf275", 80, 78.4, 0.0136)
    CTNET_QUICKSTART_ARROW = _Trained("arrow", "ctnet_quickstart", "f431d051e7d9c575")
    TSN_QUICKSTART_ARROW = _Trained("arrow", "tsn_quickstart", "886afcbfe8b1626b")

    def __fspath__(self) -> str:
        """The name, which serves as a checkpoint's path (`places.located`)."""
        return self.name.lower()

    @property
    def network(self) -> str:
        """The backbone, or the network, whose weights they are."""
        return self.name.rpartition("_")[0].lower()

    @property
    def kind(self) -> str:
        """What they learned: the word that goes into `create_model(..., weights=...)` too."""
        return self.name.rpartition("_")[2].lower()

    @property
    def is_whole(self) -> bool:
        """Whether they are of a whole network with its classifier; else they are of a backbone."""
        return isinstance(self.value, _Trained)

    @property
    def file(self) -> Path:
        """Where they lie; those of ImageNet once they are downloaded."""
        if self.kind == "imagenet":
            return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]
        return packaged(self.kind, self.network)

    def get_state_dict(self, **options) -> dict[str, torch.Tensor]:
        """The tensors, checked by their digest; those of ImageNet are downloaded if they are not there.

        Args:
            options: of `torch.hub.load_state_dict_from_url`, for ImageNet's.

        Raises:
            ValueError: a damaged file of the package.
        """
        if self.kind == "imagenet":
            return super().get_state_dict(**{"progress": False, "check_hash": True, "weights_only": True, **options})
        if (digest := files.digest(self.file)) != self.meta["digest"]:
            raise ValueError(f"{self.file} is damaged: its digest is {digest}, not {self.meta['digest']}")
        return tensors.load(self.file)[1]


def find(kind: str, network: str) -> Weights | None:
    """The weights of this kind for a backbone or a network, by its name."""
    return Weights.__members__.get(f"{network}_{kind}".upper())


def named(name: object) -> Weights | None:
    """The weights of this name, in upper or lower case."""
    return Weights.__members__.get(name.upper()) if isinstance(name, str) else None


def hint(name: str | os.PathLike) -> str:
    """For the end of an error's text: which whole network's weights may be meant, or nothing."""
    text = os.fspath(name).lower()[:100]
    if (backbone := named(text)) and not backbone.is_whole:
        return f": they are a backbone's, for ctlib.create_model(..., weights={backbone.kind!r})"
    known = [one.name.lower() for one in Weights if one.is_whole]
    near = difflib.get_close_matches(text, known, n=1) or [name for name in known if text in name]
    return f": did you mean {' or '.join(near)}?" if near else ""


_COLUMNS = ["data", "top1", "gflops", "classes", "num_frames", "size"]  # no more than a terminal shows


def list_weights(pattern: str = "*") -> pd.DataFrame:
    """All weights, one row per member of `Weights`.

    Args:
        pattern: of the members' names, with `*` and `?` as in file names; upper and lower case are the same.

    Returns:
        Indexed by name. The columns are some keys of `Weights.meta`, where `classes` is their number. All were tested
        with one clip and one crop.

    Example:
        >>> list_weights("laptop*").top1.to_dict()
        {'LAPTOP_SHAPES': 87.0, 'LAPTOP_INCEPTION_SHAPES': 78.4}
    """
    chosen = [weights for weights in Weights if fnmatchcase(weights.name, pattern.upper())]
    rows = [{**one.meta, "classes": len(one.meta["classes"])} for one in chosen]
    return pd.DataFrame(rows, [one.name for one in chosen], _COLUMNS).round({"top1": 1, "gflops": 3})
