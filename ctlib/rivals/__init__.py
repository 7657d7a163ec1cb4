"""The systems that the paper compares with (Tables 3 to 5), a file per family, and every network by its name.

A system on a 2D ResNet is a function that changes a backbone in place. It is listed here once, and then works like
CT-Net: it trains, is tested, counted, saved and explained. A system of your own needs a file like `tsm.py` and its
name in `SYSTEMS`.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from ctlib.models import MODELS, VideoClassifier, build_model, load_trained, model_config, register, register_backbone
from ctlib.models import list_models as list_models
from ctlib.rivals.tdn import NEIGHBOURS
from ctlib.weights import Weights, having, whole_network

# On a 2D ResNet. Each has a file of its name, and in it a function of its name, which changes a backbone.
SYSTEMS = ("tsm", "teinet", "tea", "stm", "smallbig", "non_local", "gsm", "gsf", "pem", "tdn", "tanet")
# Whole networks. Each family has a file, and in it `BACKBONES`.
FAMILIES = ("video_resnet", "slowfast", "i3d", "nl_i3d", "gcn", "eco", "x3d", "c3d", "blvnet", "corrnet")
FROM_SCRATCH = {"tea"}  # of the first, those whose blocks fit no weights of a ResNet
FOR_FRAMES = {"tanet"}  # and those whose weights depend on T
# What some systems and networks need of their clips: T, and fields of `DataConfig`.
OWN_CLIPS = {
    "tdn": (8 * NEIGHBOURS, {"sampling": "neighbours"}),  # eight segments
    "c3d_vgg": (16, {"size": 112}),
    "c3d_vgg_small": (8, {"size": 32}),
    **dict.fromkeys(("blvnet_tam_50", "x3d_m", "x3d_l", "x3d_xl"), (16, None)),
    **dict.fromkeys(("slowfast_r50_4x16", "slowfast_r50_8x8", "slowfast_r101_8x8", "corrnet_50"), (32, None)),
    **dict.fromkeys(("ir_csn_101", "ir_csn_152", "ip_csn_101", "ip_csn_152", "r2plus1d_34", "corrnet_101"), (32, None)),
    **dict.fromkeys(("i3d_inception", "i3d_inception_s3d", "slowfast_r101_16x8"), (64, None)),
}
for _name in SYSTEMS:
    _change = getattr(import_module(f"{__name__}.{_name}"), _name)
    register(_name, _change, _name not in FROM_SCRATCH, _name in FOR_FRAMES, *OWN_CLIPS.get(_name, ()))
for _family in FAMILIES:
    for _name, _build in import_module(f"{__name__}.{_family}").BACKBONES.items():
        register_backbone(_name, _build, *OWN_CLIPS.get(_name, ()))


def __dir__() -> list[str]:
    return sorted([*globals(), *MODELS])


def __getattr__(name: str) -> Callable[..., VideoClassifier]:
    """Each name of `models.list_models` is a constructor here too: `rivals.tsm_r50(num_classes=174)`."""
    if name in MODELS:
        build = partial(create_model, name)
        build.__doc__ = create_model.__doc__
        return build
    raise AttributeError(f"module 'ctlib.rivals' has no attribute {name!r}")


def create_model(
    name: str,
    num_classes: int | None = None,
    num_frames: int | None = None,
    weights: str | Weights | None = None,
    **parts,
) -> VideoClassifier:
    """A network by its name, in training mode: CT-Net, TSN or a system that the paper compares with.

    Args:
        name: one of `models.list_models`.
        num_classes: the classifier's outputs. Weights of a whole network need none: theirs is loaded with its
            classifier. With another number the classifier is new.
        num_frames: T, frames per clip in training; if not given, 8, or what `OWN_CLIPS` says. Networks take any other
            T too, except TANet, CorrNet, C3D, and TDN (a multiple of 5) and bLVNet (an even T).
        weights: None (random). Of the backbone: "imagenet"; the small backbones have "shapes" instead. Of the whole
            network: "arrow" (Arrow of Time), for ctnet_quickstart and tsn_quickstart. Or a member of `Weights`, or its
            name, such as "ctnet_quickstart_arrow".
        **parts: other fields of `ModelConfig`, such as `dropout=0.5`.

    Shape:
        clips (N, 3, T, H, W), float -> logits (N, num_classes)

    Raises:
        ValueError: an unknown name or part, or weights that the network or its backbone does not have.
        TypeError: num_classes is needed and not given.

    Example:
        >>> create_model("tsm_quickstart", num_classes=10).config.module
        'tsm'
        >>> create_model("ctnet_quickstart", weights="arrow").num_classes
        16
    """
    whole = whole_network(weights, name)
    given = {"num_classes": num_classes, "num_frames": num_frames, "weights": None if whole else weights}
    if whole and num_classes is None:
        given["num_classes"] = len(whole.meta["classes"])
    config = model_config(name, **{part: value for part, value in given.items() if value is not None}, **parts)
    if given["num_classes"] is None:
        having(config.weights)  # a name that there is not
        raise TypeError(f"{name} needs num_classes: only weights of a whole network say how many there are")
    model = build_model(config)
    if whole:
        load_trained(model, whole)
    return model
