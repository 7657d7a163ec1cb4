"""Published weights: ImageNet's, from torchvision."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torchvision.models import get_model_weights

PUBLISHED = ("resnet50", "resnet101", "inception_v3")  # the backbones with ImageNet weights


def published(backbone: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights from torch.hub's cache, or downloaded into it and checked by their digest.

    Raises:
        ValueError: a backbone that has none, or weights that cannot be read or downloaded.
    """
    if backbone not in PUBLISHED:
        raise ValueError(f"the backbone {backbone!r} has no ImageNet weights: {', '.join(PUBLISHED)} have")
    weights = get_model_weights(backbone).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
        state = "holds no weights" if cached.is_file() else f"does not exist and {weights.url} cannot be downloaded"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"no ImageNet weights for {backbone!r}: {cached} {state} ({reason})") from error
