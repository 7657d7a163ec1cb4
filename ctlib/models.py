"""CT-Net and TSN (section 3.3): a 2D trunk over frames, some of whose blocks see whole clips.

Clips are (N, 3, T, H, W). The trunk runs on their N * T frames, as TSN does; in a block whose 3x3
convolution is replaced, the frames come together as clips again, pass the module, and part. The
head pools each frame, classifies it, and averages the scores of the T frames.
"""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models.resnet import Bottleneck

from ctlib.config import ModelConfig, check_choice, unknown_name
from ctlib.ct_module import CTModule
from ctlib.tensorize import clips_of, frames_of


class ClipBlock(nn.Module):
    """A ResNet bottleneck with a module on clips where its 3x3 convolution was: Figure 2(b).

    conv1, bn1, conv3 and bn3 stay, with their weights; bn2 goes, as the module has its own batch
    norms. No replaced block has a stride, so the residual path is the identity.

    Shape:
        (N * T, 4C, H, W) -> the same
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
        return self.relu(self.bn3(self.conv3(out)) + x)


class ResNetTrunk(nn.Module):
    """torchvision's bottleneck ResNet without its classifier, of any depth and width.

    Names and order are torchvision's, so that its state dicts load as they are. The stages, called
    2 to 5 in the paper, are `layer1` to `layer4`.

    Args:
        depths: blocks of the four stages; (3, 4, 6, 3) is ResNet-50.
        width: channels of the stem and bottleneck width of the first stage; 64 is ResNet's.

    Shape:
        frames (N * T, 3, H, W) and T -> features (N * T, 32 * width, H / 32, W / 32), rounded up
    """

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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _shortcut(channels: int, planes: int, stride: int, index: int) -> nn.Module | None:
        if index > 0:
            return None
        wide = planes * Bottleneck.expansion
        return nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def replace(self, blocks: tuple[tuple[int, ...], ...], make_module: Callable[[int], nn.Module]) -> None:
        """Put `make_module(C)` in place of the 3x3 convolution of the blocks named, C its width."""
        for stage, indices in zip(self.stages, blocks, strict=True):
            for index in indices:
                stage[index] = ClipBlock(stage[index], make_module(stage[index].conv2.in_channels))

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        for stage in self.stages:
            for block in stage:
                x = block(x, num_frames) if isinstance(block, ClipBlock) else block(x)
        return x


class VideoClassifier(nn.Module):
    """Scores of the classes for clips: the mean over T of what each frame's features score.

    With no block replaced this is TSN (Wang et al., 2016): no frame sees another, and the mean does
    not depend on their order. Any T and any height and width are taken.

    Shape:
        clips (N, 3, T, H, W), float -> logits (N, num_classes)

    Raises:
        ValueError: when called on anything but (N, 3, T, H, W).
    """

    def __init__(self, trunk: nn.Module, config: ModelConfig):
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(trunk.out_channels, config.num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """The trunk's last activations, (N, C, T, h, w)."""
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise ValueError(f"clips must be (N, 3, T, H, W), got {tuple(clips.shape)}")
        # Channels last: the layout in which the modules on clips need no copy, and the fastest one.
        frames = frames_of(clips).contiguous(memory_format=torch.channels_last)
        return clips_of(self.trunk(frames, clips.shape[2]), clips.shape[2])

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        pooled = self.features(clips).mean((3, 4)).transpose(1, 2)  # (N, T, C)
        return self.fc(self.dropout(pooled)).mean(1)


# Trunks by name: what makes each, and where torchvision publishes its ImageNet weights.
TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: ResNetTrunk((3, 4, 6, 3)),
    "quickstart": lambda: ResNetTrunk((2, 2, 2, 2), width=16),
}

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


def _every_other(depths: tuple[int, ...], last_stages: int) -> tuple[range, ...]:
    first = len(depths) - last_stages
    return tuple(range(1, depth if stage >= first else 0, 2) for stage, depth in enumerate(depths))


def build_model(config: ModelConfig) -> VideoClassifier:
    """The network that `config` describes, on the CPU, in training mode.

    With `weights="imagenet"` the trunk starts from torchvision's published weights, read from
    torch.hub's cache or fetched into it; what is replaced is new in either case.

    Raises:
        ValueError: an unknown trunk, placement or weights, or parts that do not fit together.
    """
    check_choice("trunk", config.trunk, TRUNKS)
    check_choice("weights", config.weights, (None, "imagenet"))
    trunk = TRUNKS[config.trunk]()
    if config.weights == "imagenet":
        if not config.trunk.startswith("resnet"):
            raise ValueError(f"there are no ImageNet weights for the trunk {config.trunk!r}")
        state = get_model_weights(config.trunk).IMAGENET1K_V1.get_state_dict(progress=False, weights_only=True)
        trunk.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    blocks = config.blocks
    if isinstance(blocks, str):
        check_choice("blocks", blocks, PLACEMENTS)
        blocks = PLACEMENTS[blocks](trunk.depths)
    trunk.replace(
        blocks,
        lambda channels: CTModule(
            channels, config.dims, config.kernels, config.connection, config.pointwise, config.excitation
        ),
    )
    return VideoClassifier(trunk, config)


# The networks that have a name: what each differs in from `ModelConfig`'s defaults.
MODELS: dict[str, dict] = {
    "ctnet_r50": {"trunk": "resnet50"},
    "tsn_r50": {"trunk": "resnet50", "blocks": "none"},
    "ctnet_quickstart": {"trunk": "quickstart"},
    "tsn_quickstart": {"trunk": "quickstart", "blocks": "none"},
}


def model_config(name: str, **parts) -> ModelConfig:
    """The configuration of a named network, with `parts` of it swapped.

    Raises:
        ValueError: an unknown name or part.
    """
    if name not in MODELS:
        raise ValueError(unknown_name("model", name, MODELS))
    return ModelConfig.from_dict({**MODELS[name], **parts})


def name_of(config: ModelConfig) -> str:
    """The name in `MODELS` of this network, whatever its classes, frames, dropout and weights; else "custom"."""
    free = ("num_classes", "num_frames", "dropout", "weights")
    given = {key: getattr(config, key) for key in free}
    return next((name for name in MODELS if model_config(name, **given) == config), "custom")


def ctnet_r50(num_classes: int, num_frames: int = 8, weights: str | None = None, **parts) -> VideoClassifier:
    """CT-Net on ResNet-50: CT-Blocks in every other block of stages 2 to 5 (seven of them).

    `parts` are fields of `ModelConfig`. Shapes as in `VideoClassifier`.
    """
    return build_model(
        model_config("ctnet_r50", num_classes=num_classes, num_frames=num_frames, weights=weights, **parts)
    )


def tsn_r50(num_classes: int, num_frames: int = 8, weights: str | None = None, **parts) -> VideoClassifier:
    """TSN on ResNet-50: the same trunk with no block replaced. Arguments as in `ctnet_r50`."""
    return build_model(
        model_config("tsn_r50", num_classes=num_classes, num_frames=num_frames, weights=weights, **parts)
    )
