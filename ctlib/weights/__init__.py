"""Weights that a backbone starts from: ImageNet's, from torchvision, and those of Still Shapes, which lie here.

A file of Still Shapes holds the backbone's state dict (`tensors.save`), convolutions in float16 and the rest as it is.
Its header says which backbone it is of and how it was made. `notebooks/pretrain.ipynb` makes one again.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torchvision.models import get_model_weights

from ctlib import files
from ctlib.config import check_choice
from ctlib.weights import tensors

# The backbones with ImageNet weights, and torchvision's name of the network.
PUBLISHED = {name: name for name in ("resnet50", "resnet101", "inception_v3")}
PUBLISHED |= {f"{system}_r{depth}": f"resnet{depth}" for system in ("i3d", "nl_i3d") for depth in (50, 101)}
PUBLISHED |= {"nl_i3d_gcn_r50": "resnet50"}
# The backbones with weights of Still Shapes, and the digest of each one's file.
SHAPES: dict[str, str] = {
    "quickstart": "9f7034883250c4c6",
    "laptop": "efb29ef5f85e3a3d",
    "laptop_inception": "b78b797a48bdf275",
}
SUFFIX = ".safetensors"  # ends the path of a file that is given in place of "shapes"


def having(weights: str | None) -> tuple[str, ...] | None:
    """The backbones that have these weights: "imagenet", "shapes", a safetensors file, or None; None: any may.

    Raises:
        ValueError: an unknown name.
    """
    if weights is None or weights.endswith(SUFFIX):
        return None
    check_choice("weights", weights, (None, "imagenet", "shapes", f"a {SUFFIX} file"))
    return tuple(PUBLISHED if weights == "imagenet" else SHAPES)


def check_weights(weights: str | None, backbone: str) -> None:
    """Raise ValueError unless `backbone` has these weights, and a file that is named exists."""
    known = having(weights)
    if known is None and weights is not None and not shapes_file(backbone, weights).is_file():
        raise ValueError(f"no weights for {backbone!r}: {shapes_file(backbone, weights)} does not exist")
    if known is not None and backbone not in known:
        kind = "ImageNet weights" if weights == "imagenet" else "weights of Still Shapes"
        raise ValueError(f"the backbone {backbone!r} has no {kind}: {', '.join(known) or 'none'} have")


def published(backbone: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights from torch.hub's cache, or downloaded into it and checked by their digest.

    Raises:
        ValueError: a backbone that has none, or weights that cannot be read or downloaded.
    """
    check_weights("imagenet", backbone)
    weights = get_model_weights(PUBLISHED[backbone]).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
        state = "holds no weights" if cached.is_file() else f"does not exist and {weights.url} cannot be downloaded"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"no ImageNet weights for {backbone!r}: {cached} {state} ({reason})") from error


def shapes_file(backbone: str, weights: str = "shapes") -> Path:
    """The file of Still Shapes weights: the package's own, or the file that is named, below the project's root."""
    if weights == "shapes":
        return Path(__file__).with_name(f"shapes_{backbone}{SUFFIX}")
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
    path = shapes_file(backbone, weights)
    if weights == "shapes" and files.digest(path) != SHAPES[backbone]:
        raise ValueError(f"{path} is damaged: its digest is {files.digest(path)}, not {SHAPES[backbone]}")
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
    # Batch norms are small, and a variance may lie outside float16's range.
    tensors.save(path, {name: value.half() if value.ndim > 1 else value for name, value in state.items()}, made)
    return files.digest(path)


def start_digest(backbone: str, weights: str | None) -> str:
    """The digest of the file of Still Shapes that training starts from; empty for other weights."""
    return "" if weights in (None, "imagenet") else files.digest(shapes_file(backbone, weights))
