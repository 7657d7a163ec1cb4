"""The 2D networks under CT-Net, and where their 3x3 convolutions are replaced (section 3.3).

A backbone sees N * T frames and returns features of each. Where a module on clips replaces a 3x3
convolution, the frames form clips, pass it, and are frames again. That needs T, which `run_block`
sets before a block runs. Names are torchvision's, so its ImageNet weights load unchanged.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import nn
from torchvision.models import inception
from torchvision.models.resnet import Bottleneck

from ctlib.config import check_choice, unknown_name
from ctlib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.kernels.recompute import recomputed

# Makes what replaces a 3x3 convolution, from its input and output channels.
MakeModule = Callable[[int, int], nn.Module]


class ClipLayer(nn.Module):
    """A layer on the frames of clips, (N * T, C, H, W), that needs to know T.

    `num_frames` is T, an attribute that is set for the pass, like `n_segment` in TSM.
    """

    num_frames: int


class ClipModule(ClipLayer):
    """A module on clips among layers on frames: (N * T, C, H, W) -> the same."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames_of(self.module(clips_of(frames, self.num_frames)))


class CTBlock(ClipLayer):
    """A ResNet bottleneck with a module on clips instead of its 3x3 convolution: Figure 2(b).

    conv1, bn1, conv3 and bn3 keep their weights. bn2 goes, because the module has its own batch
    norms. No replaced block has a stride, so the residual path is the identity.

    Shape:
        (N * T, 4C, H, W) -> the same
    """

    def __init__(self, block: Bottleneck, module: nn.Module):
        super().__init__()
        if block.downsample is not None:
            raise ValueError("the first block of a stage changes the shape and cannot be replaced")
        self.conv1, self.bn1 = block.conv1, block.bn1
        self.conv2 = module
        self.conv3, self.bn3 = block.conv3, block.bn3
        self.relu = block.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = frames_of(self.conv2(clips_of(out, self.num_frames)))
        out = self.bn3(self.conv3(out))
        out += x
        return self.relu(out)


def replaced_in(module: nn.Module) -> Iterator[nn.Module]:
    """What replaced a block or a convolution in it."""
    return (part for part in module.modules() if isinstance(part, ClipLayer))


def run_block(block: nn.Module, frames: torch.Tensor, num_frames: int, recompute: bool = False) -> torch.Tensor:
    """Run a block, or a layer of a stem, on (N * T, C, H, W) frames of clips of T frames."""

    def set_num_frames() -> None:
        for part in replaced_in(block):
            part.num_frames = num_frames

    set_num_frames()
    return recomputed(block, frames, set_num_frames) if recompute else block(frames)


class Backbone(nn.Module):
    """Blocks over frames, one after the other.

    With `recompute`, the backward pass computes the activations within a block again instead of keeping them.
    """

    recompute = False
    can_recompute = True
    num_frames: int | None = None  # the only T that it takes; None: any
    frames_out: int | None = None  # how many frames of a clip came out last; None: as many as went in
    pooled = False  # whether what comes out is pooled over the clip, so that no map is left to explain a score by
    classifier: type[nn.Module] | None = None  # made of this and its configuration; None: `models.VideoClassifier`
    # What training adds to the loss: of the features (N * T, C, h, w) and T. None: nothing.
    extra_loss: Callable[[torch.Tensor, int], torch.Tensor] | None = None

    def blocks(self) -> Iterable[nn.Module]:
        """In the order in which they run."""
        raise NotImplementedError

    def check_frames(self, num_frames: int) -> None:
        """Raise ValueError for a T that it does not take."""
        if self.num_frames not in (None, num_frames):
            raise ValueError(f"this network is built for clips of {self.num_frames} frames, got {num_frames}")

    def run(self, x: torch.Tensor, num_frames: int) -> torch.Tensor:
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for block in self.blocks():
            x = run_block(block, x, num_frames, recompute)
        return x

    def replaced(self) -> Iterator[nn.Module]:
        """The blocks, or modules instead of a convolution, that were put in."""
        return replaced_in(self)


class VideoBackbone(Backbone):
    """A network on clips in the place of a backbone: frames (N * T, 3, H, W) and T -> features (N * t, C, h, w).

    Args:
        body: clips (N, 3, T, H, W) -> (N, C, t, h, w).
        out_channels: C; if not given, the body's attribute of this name.
        num_frames, pooled: as in `Backbone`.
    """

    smallest = 1
    can_recompute = False  # it is one block

    def __init__(self, body: nn.Module, out_channels: int = 0, num_frames: int | None = None, pooled: bool = False):
        super().__init__()
        self.body, self.out_channels = body, out_channels or body.out_channels
        self.num_frames, self.pooled = num_frames, pooled

    def blocks(self) -> list[nn.Module]:
        return [self.body]

    def replace(self, blocks: str | tuple, _make_module) -> None:
        if blocks != "none":
            raise ValueError(f"no block of a network on clips can be replaced: blocks must be 'none', got {blocks!r}")

    def check_frames(self, num_frames: int) -> None:
        getattr(self.body, "check_frames", super().check_frames)(num_frames)

    def forward(self, frames, num_frames: int):
        self.check_frames(num_frames)
        features = self.body(clips_of(frames, num_frames))
        self.frames_out = features.shape[2]
        return frames_of(features)


class ResNetBackbone(Backbone):
    """torchvision's bottleneck ResNet without its classifier, of any depth and width.

    The stages, called 2 to 5 in the paper, are `layer1` to `layer4`.

    Args:
        depths: blocks of the four stages; (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
        width: channels of the stem and bottleneck width of the first stage; 64 is ResNet's.
        last_stride: of the last stage; 1 keeps its maps as large as those of the stage before.

    Shape:
        frames (N * T, 3, H, W) and T -> features (N * T, 32 * width, H / 32, W / 32), rounded up; with a last
        stride of 1, H / 16 and W / 16
    """

    smallest = 1  # pixels, the smallest height and width of a frame

    def __init__(self, depths: tuple[int, int, int, int], width: int = 64, last_stride: int = 2):
        super().__init__()
        self.depths, self.out_channels = depths, 8 * width * Bottleneck.expansion
        self.stride = 16 * last_stride  # pixels between the centres of what neighbouring features see
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, (depth, first_stride) in enumerate(zip(depths, (1, 2, 2, last_stride), strict=True)):
            planes = width * 2**stage
            blocks = []
            for index in range(depth):
                stride = first_stride if index == 0 else 1
                blocks.append(Bottleneck(channels, planes, stride, self._shortcut(channels, planes, stride, index)))
                channels = planes * Bottleneck.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        _initialise(self)

    @staticmethod
    def _shortcut(channels: int, planes: int, stride: int, index: int) -> nn.Module | None:
        if index > 0:
            return None
        wide = planes * Bottleneck.expansion
        return nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def blocks(self) -> Iterator[nn.Module]:
        return (block for stage in self.stages for block in stage)

    def load_published(self, state: dict[str, torch.Tensor]) -> None:
        """Load torchvision's weights for the network of this depth, except its classifier."""
        self.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})

    def replace(self, blocks: str | tuple, make_module: MakeModule) -> None:
        """Replace the 3x3 convolution of some blocks by a module on clips.

        Args:
            blocks: a name of `PLACEMENTS`, or the indices (from 0) in each of the four stages.
            make_module: called with the bottleneck's width, twice: C in and C out.

        Raises:
            ValueError: an unknown placement, or indices that the stages do not have.
        """
        if isinstance(blocks, str):
            check_choice("blocks", blocks, PLACEMENTS)
            blocks = PLACEMENTS[blocks](self.depths)
        if len(blocks) != 4 or any(isinstance(indices, str) for indices in blocks):
            raise ValueError(f"blocks must be the indices in each of the four stages of a ResNet, got {blocks}")
        for number, (stage, indices) in enumerate(zip(self.stages, blocks, strict=True), start=2):
            if len(set(indices)) != len(indices):
                raise ValueError(f"stage {number} names a block twice: {tuple(indices)}")
            for index in indices:
                if not 0 <= index < len(stage):
                    raise ValueError(f"stage {number} has blocks 0 to {len(stage) - 1}, got {index}")
                width = stage[index].conv2.in_channels
                stage[index] = CTBlock(stage[index], make_module(width, width))

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        stem = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        return self.run(stem, num_frames)


# Which blocks of each stage are replaced (indices from 0), by the paper's stage names: Table 2e. "Every
# other" starts after the first block, which has the stride.
PLACEMENTS: dict[str, Callable[[tuple[int, ...]], tuple[range, ...]]] = {
    "none": lambda depths: _every_other(depths, 0),
    "stage5": lambda depths: _every_other(depths, 1),
    "stage4-5": lambda depths: _every_other(depths, 2),
    "stage3-5": lambda depths: _every_other(depths, 3),
    "stage2-5": lambda depths: _every_other(depths, 4),
    "all but first": lambda depths: tuple(range(1, depth) for depth in depths),
}

# The paper's GFLOPs of ResNet-101 need 7 of stage 4's 23 blocks, and every other block elsewhere. Which 7
# is not published. Every third spaces them evenly; any other 7 would cost the same.
RESNET101_BLOCKS = ((1,), (1, 3), tuple(range(2, 23, 3)), (1,))


def _every_other(depths: tuple[int, ...], last_stages: int) -> tuple[range, ...]:
    first = len(depths) - last_stages
    return tuple(range(1, depth if stage >= first else 0, 2) for stage, depth in enumerate(depths))


class InceptionBackbone(Backbone):
    """torchvision's InceptionV3 without its classifiers (Table 8).

    Frames are normalised as for the other backbones. The published weights need another scale, so
    `forward` converts.

    Args:
        width: channels of the first convolution; all others are in proportion. 32 is InceptionV3's.

    Shape:
        frames (N * T, 3, H, W), H and W from 75 pixels, and T -> features (N * T, 64 * width, h, w);
        299 pixels give h = w = 8

    Raises:
        ValueError: a width that leaves fractions of channels.
    """

    smallest = 75

    def __init__(self, width: int = 32):
        super().__init__()
        if width not in (2, 4, 8, 16, 32):
            raise ValueError(f"width must be 2, 4, 8, 16 or 32, as others leave fractions of channels, got {width}")
        self.out_channels = 64 * width
        network = inception.Inception3(aux_logits=False, init_weights=False, inception_blocks=_inception_blocks(width))
        self.body = nn.Sequential()
        for name, block in network.named_children():
            if name not in ("avgpool", "dropout", "fc"):
                self.body.add_module(name, block)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", std / 0.5, persistent=False)
        self.register_buffer("shift", (mean - 0.5) / 0.5, persistent=False)
        _initialise(self)

    def blocks(self) -> nn.Sequential:
        return self.body

    def load_published(self, state: dict[str, torch.Tensor]) -> None:
        """Load torchvision's InceptionV3 weights, except its two classifiers."""
        heads = ("fc.", "AuxLogits.")
        self.body.load_state_dict({key: value for key, value in state.items() if not key.startswith(heads)})

    def replace(self, blocks: str | tuple[str, ...], make_module: MakeModule) -> None:
        """Replace some 3x3 convolutions, with their batch norm and ReLU, by a module on clips.

        Args:
            blocks: "none", or names of convolutions, such as "Mixed_5b.branch3x3dbl_2".
            make_module: called with the channels of the convolution, in and out.

        Raises:
            ValueError: a name that is not a 3x3 convolution of stride 1 that keeps the size.
        """
        names = () if blocks == "none" else blocks
        known = [name for name, layer in self.body.named_modules() if _keeps_size(layer)]
        if isinstance(names, str) or any(not isinstance(name, str) for name in names):
            choices = ", ".join(known)
            raise ValueError(
                f"blocks of InceptionV3 must be 'none' or names of convolutions ({choices}), got {blocks!r}"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"blocks of InceptionV3 name a convolution twice: {names}")
        for name in names:
            if name not in known:
                raise ValueError(unknown_name("3x3 convolution of InceptionV3", name, known))
        for name in names:
            conv = self.body.get_submodule(name).conv
            self.body.set_submodule(name, ClipModule(make_module(conv.in_channels, conv.out_channels)))

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        return self.run(frames * self.scale + self.shift, num_frames)


def _inception_blocks(width: int) -> list[Callable[..., nn.Module]]:
    """The parts of torchvision's Inception3, with channels in proportion to `width`."""

    def convolution(channels: int, out_channels: int, **options) -> nn.Module:
        channels = 3 if channels == 3 else channels * width // 32
        return inception.BasicConv2d(channels, out_channels * width // 32, **options)

    names = ("InceptionA", "InceptionB", "InceptionC", "InceptionD", "InceptionE", "InceptionAux")
    return [convolution, *(partial(getattr(inception, name), conv_block=convolution) for name in names)]


def _keeps_size(layer: nn.Module) -> bool:
    if not isinstance(layer, inception.BasicConv2d):
        return False
    conv = layer.conv
    return (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))


# Which convolutions the paper replaced is not published. Among all choices of InceptionV3's ten 3x3
# convolutions that keep the size, five of these kinds match both numbers of Table 8 best (see
# notebooks/costs.ipynb). Blocks of one kind cost the same, so costs cannot say which.
INCEPTION_BLOCKS = (
    "Mixed_5b.branch3x3dbl_2",
    "Mixed_5c.branch3x3dbl_2",
    "Mixed_5d.branch3x3dbl_2",
    "Mixed_5d.branch3x3dbl_3",
    "Mixed_7b.branch3x3dbl_2",
)


def _initialise(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            draw_weights(module)


def draw_weights(layer: nn.Module) -> None:
    """Give a layer its random start: torchvision's for a convolution of a ResNet, else the layer's own."""
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and type(layer).reset_parameters is nn.Conv2d.reset_parameters:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    else:
        layer.reset_parameters()


# Backbones by name. Those with ImageNet weights have torchvision's names.
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: ResNetBackbone((3, 4, 6, 3)),
    "resnet101": lambda: ResNetBackbone((3, 4, 23, 3)),
    "inception_v3": InceptionBackbone,
    "quickstart": lambda: ResNetBackbone((2, 2, 2, 2), width=16),
    # Its last stage has no stride: 64 pixels give maps of 16, 8, 4 and 4 pixels, as 2 would leave no space to model.
    "laptop": lambda: ResNetBackbone((3, 4, 6, 3), width=16, last_stride=1),
    "laptop_inception": lambda: InceptionBackbone(width=8),
}
