"""CT-Net and TSN (section 3.3): a 2D backbone over frames, some of whose blocks see whole clips.

Clips are (N, 3, T, H, W). The backbone runs on their N * T frames, as TSN does. The head pools each
frame, classifies it, and averages the scores of the T frames.
"""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn
from torchvision.models import get_model_weights

from ctlib.backbones import BACKBONES, INCEPTION_BLOCKS, PUBLISHED, RESNET101_BLOCKS
from ctlib.config import ModelConfig, check_choice, unknown_name
from ctlib.ct_module import CTModule
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.temporal import MODULES

LAYOUTS = {True: torch.channels_last, False: torch.contiguous_format}


class VideoClassifier(nn.Module):
    """Scores of the classes for clips: the mean over T of what each frame's features score.

    With no block replaced this is TSN (Wang et al., 2016): no frame sees another, and the mean does
    not depend on their order. Any T and any height and width are taken, from the backbone's smallest.

    Shape:
        clips (N, 3, T, H, W), float -> logits (N, num_classes)

    Raises:
        ValueError: when called on anything but (N, 3, T, H, W), or on frames that are too small.
    """

    def __init__(self, backbone: nn.Module, config: ModelConfig):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(backbone.out_channels, config.num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)
        use_channels_last(self)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """The backbone's last activations, (N, C, T, h, w)."""
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise ValueError(f"clips must be (N, 3, T, H, W), got {tuple(clips.shape)}")
        num_frames, height, width = clips.shape[2:]
        if num_frames < 1:
            raise ValueError(f"a clip needs at least one frame, got {tuple(clips.shape)}")
        if height < self.backbone.smallest or width < self.backbone.smallest:
            raise ValueError(
                f"the backbone {self.config.backbone!r} needs frames of at least {self.backbone.smallest} x "
                f"{self.backbone.smallest} pixels, got {height} x {width}"
            )
        frames = frames_of(clips).contiguous(memory_format=LAYOUTS[self.channels_last])
        return clips_of(self.backbone(frames, num_frames), num_frames)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        pooled = self.features(clips).mean((3, 4)).transpose(1, 2)  # (N, T, C)
        return self.fc(self.dropout(pooled)).mean(1)


def build_model(config: ModelConfig) -> VideoClassifier:
    """The network that `config` describes, on the CPU, in training mode.

    With `weights="imagenet"` the backbone starts from torchvision's published weights, read from
    torch.hub's cache or fetched into it; what is replaced is new in either case.

    Raises:
        ValueError: an unknown backbone, module, placement or weights, or parts that do not fit together.
    """
    check_choice("backbone", config.backbone, BACKBONES)
    check_choice("module", config.module, ("ct", *MODULES))
    check_choice("weights", config.weights, (None, "imagenet"))
    backbone = BACKBONES[config.backbone]()
    if config.weights == "imagenet":
        if config.backbone not in PUBLISHED:
            raise ValueError(f"there are no ImageNet weights for the backbone {config.backbone!r}")
        backbone.load_published(_published(config.backbone))

    def make_module(channels: int, out_channels: int) -> nn.Module:
        if config.module != "ct":
            return MODULES[config.module](channels, out_channels)
        parts = config.dims, config.kernels, config.connection, config.pointwise, config.excitation
        return CTModule(channels, *parts, out_channels)

    backbone.replace(config.blocks, make_module)
    return VideoClassifier(backbone, config)


def _published(backbone: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights from torch.hub's cache, or fetched into it and checked by their digest."""
    weights = get_model_weights(backbone).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
        state = "holds no weights" if cached.is_file() else f"is not there and cannot be fetched from {weights.url}"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"no ImageNet weights for {backbone!r}: {cached} {state} ({reason})") from error


def use_channels_last(model: VideoClassifier, enabled: bool = True) -> None:
    """Lay out activations and the weights of 2D convolutions with channels last in memory, or else as shaped.

    With channels last, as networks are built, the modules on clips need no copy. A layout changes numbers by
    rounding only, and no name, shape or cost; weights that are loaded take the layout that they find.
    """
    model.channels_last = enabled
    for module in model.modules():  # one by one: a network has weights of five axes too, which `Module.to` refuses
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=LAYOUTS[enabled])


def recompute_blocks(model: VideoClassifier, enabled: bool = True) -> None:
    """Keep no activations within blocks, in training: the backward pass computes them again, one block at a time.

    Less memory for about a third more time, and the same numbers: gradients, running statistics, state dict.
    Compiled by a backend that plans the backward pass itself, such as "inductor", it works too; the
    backend "eager" does not, and PyTorch raises RuntimeError in the backward pass.
    """
    model.backbone.recompute = enabled


def freeze_backbone(model: VideoClassifier) -> None:
    """Train only the replaced blocks and the classifier, as the authors' released trainer does.

    Their paper speaks of training the entire network (appendix A.1), and so do we unless asked;
    their released code leaves every pretrained parameter outside the replaced blocks without a
    gradient. Batch norms that are frozen still follow the batches with their running statistics.
    """
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    for block in model.backbone.replaced():
        block.requires_grad_(True)


# The networks that have a name: what each differs in from `ModelConfig`'s defaults.
MODELS: dict[str, dict] = {
    "ctnet_r50": {"backbone": "resnet50"},
    "ctnet_r101": {"backbone": "resnet101", "blocks": RESNET101_BLOCKS},
    "ctnet_inception_v3": {"backbone": "inception_v3", "blocks": INCEPTION_BLOCKS},
    "tsn_r50": {"backbone": "resnet50", "blocks": "none"},
    "tsn_r101": {"backbone": "resnet101", "blocks": "none"},
    "tsn_inception_v3": {"backbone": "inception_v3", "blocks": "none"},
    "ctnet_quickstart": {"backbone": "quickstart"},
    "tsn_quickstart": {"backbone": "quickstart", "blocks": "none"},
    "ctnet_laptop": {"backbone": "laptop"},
    "tsn_laptop": {"backbone": "laptop", "blocks": "none"},
    "ctnet_laptop_inception": {"backbone": "laptop_inception", "blocks": INCEPTION_BLOCKS},
    "tsn_laptop_inception": {"backbone": "laptop_inception", "blocks": "none"},
}


def model_config(name: str, **parts) -> ModelConfig:
    """The configuration of a named network, with `parts` of it swapped.

    Raises:
        ValueError: an unknown name or part.
    """
    if name not in MODELS:
        raise ValueError(unknown_name("model", name, MODELS))
    if parts.get("backbone", MODELS[name]["backbone"]) != MODELS[name]["backbone"]:
        raise ValueError(f"{name} is a network on {MODELS[name]['backbone']}, got the backbone {parts['backbone']!r}")
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
    return _named("ctnet_r50", num_classes, num_frames, weights, parts)


def ctnet_r101(num_classes: int, num_frames: int = 8, weights: str | None = None, **parts) -> VideoClassifier:
    """CT-Net on ResNet-101: eleven CT-Blocks, `backbones.RESNET101_BLOCKS`. Arguments as in `ctnet_r50`."""
    return _named("ctnet_r101", num_classes, num_frames, weights, parts)


def ctnet_inception_v3(num_classes: int, num_frames: int = 8, weights: str | None = None, **parts) -> VideoClassifier:
    """CT-Net on InceptionV3: five CT-Modules, `backbones.INCEPTION_BLOCKS`. Arguments as in `ctnet_r50`."""
    return _named("ctnet_inception_v3", num_classes, num_frames, weights, parts)


def tsn_r50(num_classes: int, num_frames: int = 8, weights: str | None = None, **parts) -> VideoClassifier:
    """TSN on ResNet-50: the same backbone with no block replaced. Arguments as in `ctnet_r50`."""
    return _named("tsn_r50", num_classes, num_frames, weights, parts)


def tsn_r101(num_classes: int, num_frames: int = 8, weights: str | None = None, **parts) -> VideoClassifier:
    """TSN on ResNet-101. Arguments as in `ctnet_r50`."""
    return _named("tsn_r101", num_classes, num_frames, weights, parts)


def tsn_inception_v3(num_classes: int, num_frames: int = 8, weights: str | None = None, **parts) -> VideoClassifier:
    """TSN on InceptionV3. Arguments as in `ctnet_r50`."""
    return _named("tsn_inception_v3", num_classes, num_frames, weights, parts)


def _named(name: str, num_classes: int, num_frames: int, weights: str | None, parts: dict) -> VideoClassifier:
    given = {"num_classes": num_classes, "num_frames": num_frames, "weights": weights}
    return build_model(model_config(name, **given, **parts))
