"""The 2D networks that CT-Net grows on, and where their 3x3 convolutions give way (section 3.3).

A backbone sees N * T frames and gives features a frame. Where a module on clips stands for a 3x3
convolution, the frames come together as clips, pass it, and part again; that is why `forward` is
told T. Names are torchvision's, so its published ImageNet weights load as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from torchvision.models.resnet import Bottleneck

from ctlib.config import check_choice, unknown_name
from ctlib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from ctlib.kernels.layout import clips_of, frames_of

# Makes what replaces a 3x3 convolution of so many input and output channels.
MakeModule = Callable[[int, int], nn.Module]


class ClipModule(nn.Module):
    """A module on clips among layers that see frames: (N * T, C, H, W) and T -> the same."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        return frames_of(self.module(clips_of(frames, num_frames)))


class CTBlock(nn.Module):
    """A ResNet bottleneck with a module on clips where its 3x3 convolution was: Figure 2(b).

    conv1, bn1, conv3 and bn3 stay, with their weights; bn2 goes, as the module has its own batch
    norms. No replaced block has a stride, so the residual path is the identity.

    Shape:
        (N * T, 4C, H, W) and T -> the same
    """

    def __init__(self, block: Bottleneck, module: nn.Module):
        super().__init__()
        if block.downsample is not None:
            raise ValueError("the first block of a stage changes shape and cannot be replaced")
        self.conv1, self.bn1 = block.conv1, block.bn1
        self.conv2 = module
        self.conv3, self.bn3 = block.conv3, block.bn3
        self.relu = block.relu

    def forward(self, x: torch.Tensor, num_frames: int) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = frames_of(self.conv2(clips_of(out, num_frames)))
        out = self.bn3(self.conv3(out))
        out += x
        return self.relu(out)


class Backbone(nn.Module):
    """What backbones share: their blocks run one after the other, each told T if it sees clips.

    With `recompute`, what a block computes is not kept for the backward pass but computed again in it,
    from the block's input ("activation checkpointing", Chen et al., 2016). The numbers stay the same.
    """

    recompute = False

    def run(self, block: nn.Module, x: torch.Tensor, num_frames: int) -> torch.Tensor:
        """One block, or layer of a stem: (N * T, C, H, W) and T -> (N * T, C', H', W')."""
        inputs = (x, num_frames) if isinstance(block, (CTBlock, ClipModule, fx.GraphModule)) else (x,)
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return block(*inputs)
        if torch.compiler.is_compiling():  # the compiler plans what is recomputed, and leaves updates out of it
            return checkpoint(block, *inputs, use_reentrant=False)
        contexts = nullcontext(), _BuffersKept(block)
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: contexts)


class _BuffersKept:
    """Inside, a module has copies of its buffers: what it does to them is forgotten.

    So batch norms, synchronised ones too, follow a batch once and not again when a block is recomputed.
    """

    def __init__(self, module: nn.Module):
        self.buffers = [layer._buffers for layer in module.modules()]

    def __enter__(self) -> None:
        self.kept = [dict(buffers) for buffers in self.buffers]
        for buffers in self.buffers:
            buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()})

    def __exit__(self, *_error) -> None:
        for buffers, kept in zip(self.buffers, self.kept, strict=True):
            buffers.update(kept)


class ResNetBackbone(Backbone):
    """torchvision's bottleneck ResNet without its classifier, of any depth and width.

    The stages, called 2 to 5 in the paper, are `layer1` to `layer4`.

    Args:
        depths: blocks of the four stages; (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
        width: channels of the stem and bottleneck width of the first stage; 64 is ResNet's.

    Shape:
        frames (N * T, 3, H, W) and T -> features (N * T, 32 * width, H / 32, W / 32), rounded up
    """

    smallest = 1  # pixels, the least height and width of a frame

    def __init__(self, depths: tuple[int, int, int, int], width: int = 64):
        super().__init__()
        self.depths, self.out_channels = depths, 8 * width * Bottleneck.expansion
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            blocks = []
            for index in range(depth):
                stride = 2 if index == 0 and stage > 0 else 1
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

    def load_published(self, state: dict[str, torch.Tensor]) -> None:
        """Take torchvision's weights for the network of this depth; its classifier is left out."""
        self.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})

    def replace(self, blocks: str | tuple, make_module: MakeModule) -> None:
        """Put a module in place of the 3x3 convolution of some blocks.

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

    def replaced(self) -> Iterator[nn.Module]:
        """The blocks that were replaced."""
        return (module for module in self.modules() if isinstance(module, CTBlock))

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        for stage in self.stages:
            for block in stage:
                x = self.run(block, x, num_frames)
        return x


# Which blocks of each stage (from 0), by the paper's stage names: Table 2e. "Every other" leaves out
# the first, which has the stride.
PLACEMENTS: dict[str, Callable[[tuple[int, ...]], tuple[range, ...]]] = {
    "none": lambda depths: _every_other(depths, 0),
    "stage5": lambda depths: _every_other(depths, 1),
    "stage4-5": lambda depths: _every_other(depths, 2),
    "stage3-5": lambda depths: _every_other(depths, 3),
    "stage2-5": lambda depths: _every_other(depths, 4),
    "all but first": lambda depths: tuple(range(1, depth) for depth in depths),
}

# The paper's GFLOPs of ResNet-101 ask for 7 of stage 4's 23 blocks and every other one elsewhere. Which 7
# is not published: every third is an even spread, and costs what any other 7 would.
RESNET101_BLOCKS = ((1,), (1, 3), tuple(range(2, 23, 3)), (1,))


def _every_other(depths: tuple[int, ...], last_stages: int) -> tuple[range, ...]:
    first = len(depths) - last_stages
    return tuple(range(1, depth if stage >= first else 0, 2) for stage, depth in enumerate(depths))


class InceptionBackbone(Backbone):
    """torchvision's InceptionV3 without its classifiers (Table 8).

    Its blocks are torchvision's own, traced once so that a convolution anywhere in their branches
    can be replaced by a module that is told T. Frames are normalised as for the other backbones; the
    published weights want another scale, and `forward` changes to it.

    Args:
        width: channels of the first convolution, to which all others are in proportion; 32 is InceptionV3's.

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
        network = Inception3(aux_logits=False, init_weights=False, inception_blocks=_inception_blocks(width))
        self.body = nn.Sequential()
        for name, block in network.named_children():
            if name not in ("avgpool", "dropout", "fc"):
                self.body.add_module(name, _told_num_frames(block) if name.startswith("Mixed") else block)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", std / 0.5, persistent=False)
        self.register_buffer("shift", (mean - 0.5) / 0.5, persistent=False)
        _initialise(self)

    def load_published(self, state: dict[str, torch.Tensor]) -> None:
        """Take torchvision's InceptionV3 weights; its two classifiers are left out."""
        left_out = ("fc.", "AuxLogits.")
        self.body.load_state_dict({key: value for key, value in state.items() if not key.startswith(left_out)})

    def replace(self, blocks: str | tuple[str, ...], make_module: MakeModule) -> None:
        """Put a module in place of some 3x3 convolutions (with their batch norm and ReLU).

        Args:
            blocks: "none", or names of convolutions, such as "Mixed_5b.branch3x3dbl_2".
            make_module: called with the channels of the convolution, in and out.

        Raises:
            ValueError: a name that is no 3x3 convolution of stride 1 that keeps the size.
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
            block, _, layer = name.partition(".")
            if layer:
                _pass_num_frames(self.body.get_submodule(block), layer)

    def replaced(self) -> Iterator[nn.Module]:
        """The modules that replaced a convolution."""
        return (module for module in self.modules() if isinstance(module, ClipModule))

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        x = frames * self.scale + self.shift
        for block in self.body:
            x = self.run(block, x, num_frames)
        return x


def _inception_blocks(width: int) -> list[Callable[..., nn.Module]]:
    """The parts that torchvision's Inception3 is made of, with their channels in proportion to `width`."""

    def convolution(channels: int, out_channels: int, **options) -> BasicConv2d:
        return BasicConv2d(3 if channels == 3 else channels * width // 32, out_channels * width // 32, **options)

    blocks = InceptionA, InceptionB, InceptionC, InceptionD, InceptionE, InceptionAux
    return [convolution, *(partial(block, conv_block=convolution) for block in blocks)]


class _KeepConvolutions(fx.Tracer):
    """Traces into Inception's blocks, but leaves each convolution with its batch norm a module."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, BasicConv2d) or super().is_leaf_module(module, name)


def _told_num_frames(block: nn.Module) -> fx.GraphModule:
    """A block of Inception as a graph that takes T beside its input, for what will be replaced in it."""
    graph = _KeepConvolutions().trace(block)
    with graph.inserting_after(next(iter(graph.nodes))):
        graph.placeholder("num_frames")
    return fx.GraphModule(block, graph)


def _pass_num_frames(block: fx.GraphModule, layer: str) -> None:
    """Let `layer` of such a block be called with T as well."""
    _, num_frames = (node for node in block.graph.nodes if node.op == "placeholder")
    (node,) = (node for node in block.graph.nodes if node.target == layer)
    node.args = (*node.args, num_frames)
    block.recompile()


def _keeps_size(layer: nn.Module) -> bool:
    if not isinstance(layer, BasicConv2d):
        return False
    conv = layer.conv
    return (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))


# Which convolutions the paper replaced is not published. Of all choices among InceptionV3's ten 3x3
# convolutions that keep the size, five of these kinds meet both numbers of Table 8 best: the notebook
# on costs shows the search. Costs cannot tell blocks of one kind apart.
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
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# Backbones by name; those that torchvision publishes ImageNet weights for are called as there.
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: ResNetBackbone((3, 4, 6, 3)),
    "resnet101": lambda: ResNetBackbone((3, 4, 23, 3)),
    "inception_v3": InceptionBackbone,
    "quickstart": lambda: ResNetBackbone((2, 2, 2, 2), width=16),
    "laptop": lambda: ResNetBackbone((3, 4, 6, 3), width=16),
    "laptop_inception": lambda: InceptionBackbone(width=8),
}
PUBLISHED = ("resnet50", "resnet101", "inception_v3")  # those with ImageNet weights
