"""Weights that a backbone starts from, and those of whole trained networks; `catalog` lists all.

A backbone starts from ImageNet's, from torchvision, or from those of Still Shapes, which lie here. A file of Still
Shapes holds the backbone's state dict (`tensors.save`), convolutions in float16 and the rest as it is. Its header says
which backbone it is of and how it was made. `notebooks/pretrain.ipynb` makes one again.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch

from ctlib import files
from ctlib.config import unknown_name
from ctlib.weights import tensors
from ctlib.weights.catalog import SUFFIX, Weights, find, named, packaged

# The backbones with ImageNet weights, and torchvision's name of the network.
PUBLISHED = {name: name for name in ("resnet50", "resnet101", "inception_v3")}
PUBLISHED |= {f"{system}_r{depth}": f"resnet{depth}" for system in ("i3d", "nl_i3d") for depth in (50, 101)}
PUBLISHED |= {"nl_i3d_gcn_r50": "resnet50"}
SHAPES = tuple(weights.network for weights in Weights if weights.kind == "shapes")  # the backbones that have them


def having(weights: str | None) -> tuple[str, ...] | None:
    """The backbones that have these weights: "imagenet", "shapes", a safetensors file, or None; None: any may.

    Raises:
        ValueError: an unknown name.
    """
    if weights is None or weights.endswith(SUFFIX):
        return None
    if weights in _whole():
        raise ValueError(
            f"{weights!r} are weights of a whole network, which ctlib.create_model loads; needed a backbone's"
        )
    if weights not in ("imagenet", "shapes"):
        raise ValueError(unknown_name("weights", weights, ("imagenet", "shapes", *_whole(), f"a {SUFFIX} file")))
    return tuple(PUBLISHED if weights == "imagenet" else SHAPES)


def _whole() -> list[str]:
    """What the weights of whole networks are called: by their kind, and each by its name."""
    whole = [one for one in Weights if one.is_whole]
    return list(dict.fromkeys([*(one.kind for one in whole), *(one.name.lower() for one in whole)]))


def check_weights(weights: str | None, backbone: str) -> None:
    """Raise ValueError unless `backbone` has these weights, and a file that is named exists."""
    known = having(weights)
    if known is None and weights is not None and not shapes_file(backbone, weights).is_file():
        raise ValueError(f"no weights for {backbone!r}: {shapes_file(backbone, weights)} does not exist")
    if known is not None and backbone not in known:
        kind = "ImageNet weights" if weights == "imagenet" else "weights of Still Shapes"
        raise ValueError(f"the backbone {backbone!r} has no {kind}: {', '.join(known) or 'none'} have")


def kind_of(weights: str | Weights | None, backbone: str) -> str | None:
    """What `ModelConfig.weights` takes, of weights that may be a member of `Weights` or its name.

    Raises:
        ValueError: weights of another backbone, or of a whole network.
    """
    weights = named(weights) or weights
    if not isinstance(weights, Weights):
        return weights
    if weights.is_whole:
        raise ValueError(f"{weights.name} are of a whole network: ctlib.create_model({weights.network!r}, weights=...)")
    if find(weights.kind, PUBLISHED.get(backbone, backbone)) is not weights:
        raise ValueError(f"{weights.name} are weights of {weights.network!r}, and the backbone is {backbone!r}")
    return weights.kind


def whole_network(weights: str | Weights | None, name: str) -> Weights | None:
    """The weights of a whole network that are meant for the network of this name; None: they are a backbone's.

    Raises:
        ValueError: weights of another network.
    """
    weights = named(weights) or weights
    if isinstance(weights, Weights):
        if weights.is_whole and weights.network != name:
            raise ValueError(f"{weights.name} are weights of {weights.network!r}, got {name!r}")
        return weights if weights.is_whole else None
    owners = {one.network: one for one in Weights if one.is_whole and one.kind == weights}
    if owners and name not in owners:
        raise ValueError(f"{name!r} has no weights {weights!r}: {', '.join(owners)} have")
    return owners.get(name)


def published(backbone: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights from torch.hub's cache, or downloaded into it and checked by their digest.

    Raises:
        ValueError: a backbone that has none, or weights that cannot be read or downloaded.
    """
    check_weights("imagenet", backbone)
    weights = find("imagenet", PUBLISHED[backbone])
    try:
        return weights.get_state_dict()
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        cached = weights.file
        state = "holds no weights" if cached.is_file() else f"does not exist and {weights.url} cannot be downloaded"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"no ImageNet weights for {backbone!r}: {cached} {state} ({reason})") from error


def shapes_file(backbone: str, weights: str = "shapes") -> Path:
    """The file of Still Shapes weights: the package's own, or the file that is named, below the project's root."""
    if weights == "shapes":
        return packaged("shapes", backbone)
    return files.project_root() / Path(weights).expanduser()


def shapes(backbone: str, weights: str = "shapes") -> dict[str, torch.Tensor]:
    """The state dict of a backbone that was pretrained on Still Shapes.

    Args:
        backbone: a name of `backbones.BACKBONES`.
        weights: "shapes", the package's own, checked by their digest; or a file that `save_shapes` wrote.

    Raises:
        ValueError: a backbone that has none, or a file that does not exist, is damaged or is of another backbone.
    """
    check_weights(weights, backbone)
    if weights == "shapes":
        return find("shapes", backbone).get_state_dict()
    path = shapes_file(backbone, weights)
    try:
        made, state = tensors.load(path)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if made.get("backbone") != backbone:
        raise ValueError(f"{path} holds weights of the backbone {made.get('backbone')!r}, not of {backbone!r}")
    return state


def save_shapes(path: Path, state: Mapping[str, torch.Tensor], made: Mapping[str, object]) -> str:
    """Write a backbone's state dict, and return the digest of the file.

    Args:
        path: ends in ".safetensors".
        state: of the backbone.
        made: how, as JSON can say it; "backbone" is its name in `backbones.BACKBONES`.
    """
    tensors.save(path, tensors.halved(state), made)
    return files.digest(path)


def start_digest(backbone: str, weights: str | None) -> str:
    """The digest of the file of Still Shapes that training starts from; empty for other weights."""
    return "" if weights in (None, "imagenet") else files.digest(shapes_file(backbone, weights))
