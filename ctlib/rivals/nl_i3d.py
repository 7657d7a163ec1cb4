"""I3D on a ResNet, and NL-I3D (Wang et al., CVPR 2018): a ResNet inflated into time, with non-local blocks.

In some bottlenecks the first convolution sees three frames, and pools halve the number of frames up to three times.
Five non-local blocks let each position attend to all others. Which blocks see three frames follows from the published
costs; the authors' release has more of them in stage 4 of ResNet-101. ImageNet weights of the ResNet are inflated.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import VideoBackbone
from ctlib.rivals.non_local import NonLocal
from ctlib.rivals.parts import R50, R101, Bottleneck3d, conv_bn_relu

SEE_NEIGHBOURS = ((0, 1, 2), (0, 2), (0, 2, 4), (1,))  # blocks whose first convolution is 3 x 1 x 1, by stage


class Pool(nn.Module):
    """A max-pool that takes clips of a single frame too; a last odd frame is left out.

    It pools `frames` to one. In space its kernel is 3 pixels, with a stride of 2, or 1.
    Shape: (N, C, T, H, W) -> (N, C, T / frames, H / stride, W / stride).
    """

    def __init__(self, frames: int, pixels: int):
        super().__init__()
        self.frames, self.pixels = frames, pixels

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        frames, half = min(self.frames, clips.shape[2]), self.pixels // 2
        kernel, stride = (frames, self.pixels, self.pixels), (frames, 1 + half, 1 + half)
        return F.max_pool3d(clips, kernel, stride, padding=(0, half, half))


class I3DBackbone(VideoBackbone):
    """An inflated ResNet of bottlenecks, with a stem of `width` channels.

    Args:
        depths: blocks of the four stages.
        attending: those of each stage that a non-local block follows; if not given, none.
        dense: half of the frames remain, not an eighth, and the last stage has no stride (Wang and Gupta, ECCV 2018).
    """

    def __init__(self, depths: tuple[int, ...], attending: tuple = ((),) * 4, width: int = 64, dense: bool = False):
        body, channels = nn.Sequential(), width
        body.conv1, body.bn1, body.relu = conv_bn_relu(3, width, (5, 7, 7), (1 if dense else 2, 2, 2))
        body.maxpool = Pool(1 if dense else 2, 3)
        for stage, depth in enumerate(depths):
            planes, blocks = width * 2**stage, []
            for index in range(depth):
                stride = 2 if index == 0 and 0 < stage < (3 if dense else 4) else 1
                temporal = 3 if index in SEE_NEIGHBOURS[stage] else 1
                non_local = NonLocal(4 * planes) if index in attending[stage] else None
                blocks.append(Bottleneck3d(channels, planes, stride, temporal, after=non_local))
                channels = 4 * planes
            body.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            if stage == 0:
                body.pool2 = Pool(2, 1)
        super().__init__(body, channels)

    def load_published(self, state: dict[str, torch.Tensor]) -> set[nn.Parameter]:
        """Load torchvision's weights for this ResNet, except its classifier, and return the parameters that they fill.

        A kernel is repeated over time and divided by its new extent. Other layers stay as they are.
        """
        own, state = self.body.state_dict(), {key: value for key, value in state.items() if not key.startswith("fc.")}
        for key, value in state.items():
            own[key] = value if value.ndim < 4 else value[:, :, None].expand_as(own[key]) / own[key].shape[2]
        self.body.load_state_dict(own)
        return {parameter for key, parameter in self.body.named_parameters() if key in state}


BACKBONES = {
    "i3d_r50": lambda: I3DBackbone(R50),
    "i3d_r101": lambda: I3DBackbone(R101),
    "nl_i3d_r50": lambda: I3DBackbone(R50, ((), (1, 3), (1, 3, 5), ())),
    "nl_i3d_r101": lambda: I3DBackbone(R101, ((), (1, 3), (6, 13, 20), ())),
    "nl_i3d_small": lambda: I3DBackbone((1, 2, 2, 1), ((), (1,), (1,), ()), width=16, dense=True),
}
