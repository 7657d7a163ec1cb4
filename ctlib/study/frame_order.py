"""What a network can tell from the order of frames: which frames reach which, and a clip beside its reverse.

Arrow of Time is mirrored: each clip has its reverse in another class. So a network that gives both the same scores
cannot pass 50 %.
"""

import copy

import numpy as np
import torch
from torch import nn

from ctlib.kernels import BATCH_NORMS
from ctlib.models import VideoClassifier

SIZE, CLIPS = 32, 4  # pixels, height and width of the random clips, and how many there are


def as_trained(network: VideoClassifier) -> VideoClassifier:
    """A copy in float64 and evaluation mode, in which nothing is at the start that would hide what it can do.

    Some systems start as if they were not there, as shifts, or with equal weights for all frames. Batch norms get
    random values, and so do parameters of which no more than half of the values differ from each other.
    """
    network = copy.deepcopy(network).double().eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for norm in (layer for layer in network.modules() if isinstance(layer, BATCH_NORMS)):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1)
        for parameter in network.parameters():
            if parameter.unique().numel() <= parameter.numel() / 2 or not parameter.any():
                parameter.normal_(0, parameter.square().mean().sqrt().item() or 0.1)
    return network


def apart(network: VideoClassifier, num_frames: int) -> dict[str, float]:
    """How far scores move when frames change places, over how far apart the scores of different clips are.

    Args:
        network: of `as_trained`, in float64.
        num_frames: T of the random clips.

    Returns:
        `reversed` and `permuted`: the largest change over the largest distance between two clips.
    """
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(CLIPS, 3, num_frames, SIZE, SIZE, dtype=torch.float64, generator=generator)
    order = torch.randperm(num_frames, generator=generator)
    with torch.no_grad():
        scores = network(frames)
        between = (scores[:, None] - scores[None]).abs().max()
        moved = {"reversed": frames.flip(2), "permuted": frames[:, :, order]}
        return {name: ((network(other) - scores).abs().max() / between).item() for name, other in moved.items()}


def reach(network: VideoClassifier, num_frames: int) -> np.ndarray:
    """Which frame of a clip reaches which frame of the last features, by gradient; arguments as in `apart`.

    Returns:
        (t, T): the norm of the gradient of random weights times the features of one frame, by each frame of the clip.
        A row's largest entry is 1; 0 means that nothing comes through.
    """
    return _reach(network, num_frames, slice(None))


def frames_seen(network: VideoClassifier, num_frames: int) -> int:
    """How many frames of a clip reach the middle frame of the last features (`reach`); arguments as in `apart`."""
    return int((_reach(network, num_frames, "middle") > 0).sum())


def _reach(network: VideoClassifier, num_frames: int, rows: slice | str) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(1, 3, num_frames, SIZE, SIZE, dtype=torch.float64, generator=generator).requires_grad_()
    features = network.forward_features(clip).mean((3, 4))[0]  # (C, t)
    weights = torch.randn(len(features), dtype=torch.float64, generator=generator)
    frames = (weights[:, None] * features).sum(0)
    gradients = []
    for frame in frames if rows != "middle" else frames[len(frames) // 2, None]:
        (gradient,) = torch.autograd.grad(frame, clip, retain_graph=True)
        gradients.append(gradient[0].pow(2).sum((0, 2, 3)).sqrt())
    reached = torch.stack(gradients)
    return (reached / reached.amax(1, keepdim=True)).numpy()
