"""CT-Net and TSN (section 3.3): a 2D backbone over frames, some of whose blocks see whole clips.

Clips are (N, 3, T, H, W). The backbone runs on their N * T frames, as in TSN. The head pools each
frame, classifies it, and averages the scores over the T frames.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Set
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ctlib.backbones import BACKBONES, INCEPTION_BLOCKS, RESNET101_BLOCKS, draw_weights
from ctlib.config import ModelConfig, check_choice, unknown_name
from ctlib.ct_module import SPECIAL_CASES, CTModule, special_case
from ctlib.files import OneLineError
from ctlib.kernels import BATCH_NORMS
from ctlib.kernels.layout import clips_of, frames_of, use_channels_last
from ctlib.weights import PUBLISHED, Weights, check_weights, kind_of, published, shapes


class Classifier(nn.Linear):
    """The last layer, which starts at scores near 0."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.001)
        nn.init.zeros_(self.bias)


def make_classifier(num_features: int, num_classes: int) -> nn.Module:
    """The last layer; without classes it passes features unchanged."""
    return Classifier(num_features, num_classes) if num_classes else nn.Identity()


class VideoClassifier(nn.Module):
    """Class scores of clips: the mean over T of the scores of each frame's features.

    With no block replaced this is TSN (Wang et al., 2016): no frame sees another, and their order
    does not matter. Any T is allowed, and any height and width from the backbone's smallest. With `num_classes=0` the
    pooled features take the place of scores.

    Shape:
        clips (N, 3, T, H, W), float -> logits (N, num_classes), or (N, num_features)

    Raises:
        ValueError: when called with another shape, or with frames that are too small.
    """

    needs_boxes = False  # beside the clips

    def __init__(self, backbone: nn.Module, config: ModelConfig):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.dropout = nn.Dropout(config.dropout)
        self.num_features = backbone.out_channels
        self.fc = make_classifier(self.num_features, config.num_classes)
        self.blocks_are_compiled = False  # by `compile_blocks`
        use_channels_last(self)  # sets `memory_format`

    @property
    def num_classes(self) -> int:
        """0: pooled features take the place of scores."""
        return self.config.num_classes

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new last layer in place, with random weights, for other classes; 0: none."""
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        weight = next(self.parameters())
        self.fc = make_classifier(self.num_features, num_classes).to(weight.device, weight.dtype)

    def forward_features(self, clips: torch.Tensor) -> torch.Tensor:
        """The backbone's last activations, (N, C, t, h, w); t is T on a 2D backbone."""
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
        frames = frames_of(clips).contiguous(memory_format=self.memory_format)
        features = self.backbone(frames, num_frames)
        return clips_of(features, self.backbone.frames_out or num_frames)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Logits of what `forward_features` gives; with `pre_logits` its mean over t, h and w: (N, num_features)."""
        pooled = self.dropout(features.mean((3, 4)).transpose(1, 2))  # (N, t, C)
        return (pooled if pre_logits else self.fc(pooled)).mean(1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(clips))


def build_model(config: ModelConfig, seed: int | None = None) -> VideoClassifier:
    """The network that `config` describes, on the CPU, in training mode.

    With `weights="imagenet"` the backbone starts from torchvision's weights, read from torch.hub's
    cache or downloaded into it; with "shapes", from the package's own. Replaced blocks are new in either case.

    Args:
        config: the network.
        seed: of what starts at random (`initialise`); None: it is drawn from torch's generator, as it is built.

    Raises:
        ValueError: an unknown backbone, module, placement or weights, or parts that do not fit together.
    """
    check_choice("backbone", config.backbone, BACKBONES)
    check_choice("module", config.module, ("ct", *SPECIAL_CASES, *_SYSTEMS))
    check_weights(config.weights, config.backbone)
    if config.weights is not None and not fits_weights(config):
        raise ValueError(f"{config.module!r} has blocks of its own: weights must be None, got {config.weights!r}")
    backbone = BACKBONES[config.backbone]()
    loaded = set()  # parameters that keep their weights
    if config.weights == "imagenet":
        loaded = backbone.load_published(published(config.backbone)) or set(backbone.parameters())
    elif config.weights is not None:
        backbone.load_state_dict(shapes(config.backbone, config.weights))
        loaded = set(backbone.parameters())

    def make_module(channels: int, out_channels: int) -> nn.Module:
        if config.module != "ct":
            return special_case(config.module, channels, out_channels)
        parts = config.dims, config.kernels, config.connection, config.pointwise, config.excitation
        return CTModule(channels, *parts, out_channels)

    if config.module in _SYSTEMS:
        if config.blocks != "all":
            raise ValueError(f"{config.module!r} is in all blocks: blocks must be 'all', got {config.blocks!r}")
        system = _SYSTEMS[config.module]
        copied = system.change(backbone, *([config.num_frames] if system.for_frames else []))
        loaded |= copied if loaded and copied else set()
    else:
        backbone.replace(config.blocks, make_module)
    backbone.check_frames(config.num_frames)
    model = (backbone.classifier or VideoClassifier)(backbone, config)
    if seed is not None:
        initialise(model, seed, loaded)
    return model


def refuse_boxes(model: nn.Module, what: str) -> None:
    """Raise ValueError for a network that needs boxes beside the clips, naming `what` it cannot be used for."""
    if getattr(model, "needs_boxes", False):
        raise ValueError(f"{model.config.backbone!r} needs boxes of objects beside the clips: no {what} of it")


def initialise(model: nn.Module, seed: int, keep: Set[nn.Parameter] = frozenset()) -> None:
    """Draw each layer's random weights anew, from the seed, the layer's name and its shapes alone.

    So two networks start alike wherever they have a layer of the same name and shapes, whatever else they have.
    Distributions are those of building. Batch norms stay as they are, and so does what `keep` holds.
    """
    with torch.random.fork_rng(devices=[]):
        for name, layer in model.named_modules():
            own = list(layer.parameters(recurse=False))
            if own and not isinstance(layer, BATCH_NORMS) and keep.isdisjoint(own):
                key = f"{name} {[tuple(parameter.shape) for parameter in own]}"
                digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
                drawn = np.random.SeedSequence([seed, digest]).generate_state(1, np.uint64)
                torch.default_generator.manual_seed(int(drawn[0]))  # to seed every device takes longer than to draw
                draw_weights(layer)


def load_trained(model: VideoClassifier, weights: Weights) -> None:
    """Fill a network with the weights of a whole one; for another number of classes its classifier stays new.

    Raises:
        ValueError: parts that differ from those of the trained network, or a damaged file.
    """
    if name_of(model.config) != weights.network:
        raise ValueError(f"{weights.name} are of {weights.network!r} as it is, without other parts")
    state = weights.get_state_dict()
    if model.num_classes != len(weights.meta["classes"]):
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    model.load_state_dict({**model.state_dict(), **state})


def recompute_blocks(model: VideoClassifier, enabled: bool = True) -> None:
    """Train with less memory: the backward pass computes the activations within each block again.

    It takes about a third more time. Gradients, running statistics and the state dict stay the same.

    Raises:
        ValueError: a whole network, which has no blocks.
    """
    if enabled and not model.backbone.can_recompute:
        raise ValueError(f"{model.config.backbone!r} has no blocks to recompute: set compute.recompute=false")
    model.backbone.recompute = enabled


def compile_blocks(model: VideoClassifier, backend: str = "inductor") -> None:
    """Compile the blocks of the backbone in place, one by one: blocks of equal shapes share what was compiled.

    So CT-Net on ResNet-50 needs 12 small graphs in training, and TSN 8. Names, state dict and results stay, up to
    rounding.

    Args:
        backend: of `torch.compile`.
    """
    for block in model.backbone.blocks():
        block.compile(backend=backend, dynamic=False)
    model.blocks_are_compiled = True


def freeze_backbone(model: VideoClassifier) -> None:
    """Train only the replaced blocks and the classifier, as the authors' released trainer does.

    Of another system, what has pretrained weights is frozen, and what it adds is trained. Of one that fits no weights,
    only the classifier is trained.

    The paper trains the entire network (appendix A.1), which is our default too. In the released
    code no pretrained parameter outside the replaced blocks has a gradient. Frozen batch norms still
    update their running statistics.
    """
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    config = model.config
    if config.module not in _SYSTEMS and config.blocks != "none":
        for block in model.backbone.replaced():
            block.requires_grad_(True)
    elif fits_weights(config):
        with torch.device("meta"):
            pretrained = BACKBONES[PUBLISHED.get(config.backbone, config.backbone)]()
        names = {name.removeprefix("body.") for name, _ in pretrained.named_parameters()}
        for name, parameter in model.backbone.named_parameters():
            parameter.requires_grad_(name.removeprefix("body.") not in names)


class NotFiniteError(OneLineError, ValueError):
    """Scores that are NaN or infinite, which would count as some class."""


def check_finite(scores: torch.Tensor, name: Callable[[int], str] = "clip {}".format) -> None:
    """Raise NotFiniteError unless all scores (n, num_classes) are finite; `name` says what is scored, by its index."""
    broken = (~scores.isfinite()).any(1).nonzero().flatten().tolist()
    if broken:
        raise NotFiniteError(
            f"the network's scores are not finite for {len(broken)} of {len(scores)} clips or videos, the first of "
            f"them {name(broken[0])}"
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, of one that is compiled or wrapped for several devices or processes."""
    for name in ("_orig_mod", "module"):  # torch.compile's; DataParallel's, DistributedDataParallel's, `Compiled`'s
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module):
            return unwrapped(inner)
    return model


# The networks that have a name, by what differs from `ModelConfig`'s defaults.
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
OWN_DATA: dict[str, dict] = {}  # of these, what a network needs of its clips: fields of `DataConfig`


class _System(NamedTuple):
    change: Callable[..., Set[nn.Parameter] | None]
    keeps_weights: bool
    for_frames: bool


_SYSTEMS: dict[str, _System] = {}  # those on a 2D ResNet, as in `register`, by the name of `ModelConfig.module`


def fits_weights(config: ModelConfig) -> bool:
    """Whether it keeps the convolutions of its backbone, so that pretrained weights fit."""
    return config.module not in _SYSTEMS or _SYSTEMS[config.module].keeps_weights


_BACKBONES_OF_SYSTEMS = "resnet50", "resnet101", "quickstart", "laptop"


def register(
    module: str,
    change: Callable[..., Set[nn.Parameter] | None],
    keeps_weights: bool = True,
    for_frames: bool = False,
    num_frames: int | None = None,
    data: Mapping | None = None,
) -> None:
    """Add a system on a 2D ResNet, with a name in `MODELS` for each ResNet.

    Args:
        module: its name in `ModelConfig.module`; "tsm" gives "tsm_r50" and others.
        change: changes a backbone in place, whose weights are loaded. It may return new parameters that it copied from
            them.
        keeps_weights: whether it keeps the backbone's convolutions; if not, pretrained weights are refused.
        for_frames: whether its weights depend on T; if so, `change` takes T too.
        num_frames: T where none is given; 8, if not given here.
        data: fields of `DataConfig` that a run of it has where none are given, such as its sampling.

    Raises:
        ValueError: another system has one of these names. A notebook may register its own again.
    """
    names = {f"{module}_{backbone.replace('resnet', 'r')}": backbone for backbone in _BACKBONES_OF_SYSTEMS}
    again = module in _SYSTEMS and _SYSTEMS[module].change.__module__ == change.__module__
    if not again and (module in ("ct", *SPECIAL_CASES, *_SYSTEMS) or not MODELS.keys().isdisjoint(names)):
        raise ValueError(f"there is a system called {module!r} already: choose another name")
    _SYSTEMS[module] = _System(change, keeps_weights, for_frames)
    for name, backbone in names.items():
        _name(name, {"backbone": backbone, "module": module, "blocks": "all"}, num_frames, data)


def register_backbone(
    name: str, build: Callable[[], nn.Module], num_frames: int | None = None, data: Mapping | None = None
) -> None:
    """Add a whole network, whose name in `MODELS` is that of its backbone.

    Args:
        name: in `ModelConfig.backbone`.
        build: makes it with random weights.
        num_frames, data: as in `register`.

    Raises:
        ValueError: another network has this name. A notebook may register its own again.
    """
    if name in BACKBONES and BACKBONES[name].__module__ != build.__module__:
        raise ValueError(f"there is a network called {name!r} already: choose another name")
    BACKBONES[name] = build
    _name(name, {"backbone": name, "blocks": "none"}, num_frames, data)


def _name(name: str, parts: dict, num_frames: int | None, data: Mapping | None) -> None:
    MODELS[name] = parts if num_frames is None else {**parts, "num_frames": num_frames}
    OWN_DATA[name] = dict(data or {})


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` takes.

    Args:
        pattern: of the names, with `*` and `?` as in file names.

    Example:
        >>> list_models("tsm*")
        ['tsm_laptop', 'tsm_quickstart', 'tsm_r101', 'tsm_r50']
    """
    return sorted(name for name in MODELS if fnmatchcase(name, pattern))


def model_config(name: str, **parts) -> ModelConfig:
    """The configuration of a named network, with `parts` of it changed; `weights` may be a member of `Weights`.

    Raises:
        ValueError: an unknown name or part, or weights of another backbone.
    """
    if name not in MODELS:
        raise ValueError(unknown_name("model", name, MODELS))
    if parts.get("backbone", MODELS[name]["backbone"]) != MODELS[name]["backbone"]:
        raise ValueError(f"{name} is a network on {MODELS[name]['backbone']}, got backbone {parts['backbone']!r}")
    if "weights" in parts:
        parts["weights"] = kind_of(parts["weights"], MODELS[name]["backbone"])
    return ModelConfig.from_dict({**MODELS[name], **parts})


def name_of(config: ModelConfig) -> str:
    """The name in `MODELS` of this network, whatever its classes, frames, dropout and weights; else "custom"."""
    free = ("num_classes", "num_frames", "dropout", "weights")
    given = {key: getattr(config, key) for key in free}
    return next((name for name in MODELS if model_config(name, **given) == config), "custom")
