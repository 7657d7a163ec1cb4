"""PEM and TD loss (Weng et al., ECCV 2020): channels that move are enhanced with a memory, and frames kept apart.

Before the first convolution of each block stand the Progressive Enhancement Module and TEINet's temporal interaction.
The memory carries differences of neighbouring frames forward through the clip, and gates the channels. No code is
released, and details come from others who cite the paper. The form of the memory and its gate, the last frame's
difference, and the pairs of frames in the loss are our reading; GFLOPs are as published.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import ResNetBackbone
from ctlib.rivals.parts import SHIFT, TemporalConv, before_each


class ProgressiveEnhancement(nn.Module):
    """PEM: gates of the channels of each frame, from a memory of the differences up to the next frame.

    With the means z_t, the difference is d_t = B z_{t+1} - A z_t at a sixteenth of the channels, zero at the end. The
    memory is m_t = g_t m_{t-1} + (1 - g_t) d_t, where g_t = sigmoid(u m_{t-1} + v d_t + w). Gates are sigmoid(W m_t).
    Shape: (N, C, T, H, W) -> the same.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.of_this, self.of_next = nn.Conv1d(channels, hidden, 1), nn.Conv1d(channels, hidden, 1)
        self.keep = nn.Conv1d(2, 1, 1)  # the same u, v and w for all channels
        self.expand = nn.Conv1d(hidden, channels, 1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        means = clips.mean((3, 4))
        differences = F.pad(self.of_next(means)[:, :, 1:] - self.of_this(means)[:, :, :-1], (0, 1))
        memory, memories = torch.zeros_like(differences[:, :, 0]), []
        for difference in differences.unbind(2):
            kept = self.keep(torch.stack([memory, difference], 1)).squeeze(1).sigmoid()  # (N, C / 16)
            memory = kept * memory + (1 - kept) * difference
            memories.append(memory)
        gates = self.expand(torch.stack(memories, 2)).sigmoid()
        return clips * gates[:, :, :, None, None]


def temporal_diversity(features: torch.Tensor, num_frames: int, weight: float = 1.0) -> torch.Tensor:
    """TD loss: how alike the maps of a channel are in two frames of a clip, as the mean of cosine similarities.

    Added to the loss, it drives the frames' features apart: frames of clips, (N * T, C, H, W), the first half of their
    channels. It is `weight` for a still clip, and 0 where maps are zero, are orthogonal, or there is only one frame.
    """
    if num_frames == 1:
        return features.new_zeros(())
    chosen = features[:, : max(1, features.shape[1] // 2)]
    maps = chosen.to(torch.promote_types(chosen.dtype, torch.float32)).flatten(2).unflatten(0, (-1, num_frames))
    unit = (maps / (maps.square().sum(3, keepdim=True) + 1e-12).sqrt()).transpose(1, 2)  # finite where a map is zero
    first, second = torch.triu_indices(num_frames, num_frames, 1, device=features.device)
    return weight * (unit @ unit.mT)[:, :, first, second].mean()


def pem(backbone: ResNetBackbone) -> None:
    """Make a backbone that of PEM and TIM, trained with the TD loss."""
    before_each("conv1", backbone, lambda c: nn.Sequential(ProgressiveEnhancement(c), TemporalConv(c, SHIFT)))
    # On the last features, with a weight of 0.1: our choice, as neither is published.
    backbone.extra_loss = partial(temporal_diversity, weight=0.1)
