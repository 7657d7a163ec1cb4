"""Networks on disk: our own checkpoints, and those that CT-Net's authors released.

Ours hold tensors and plain values only (`weights_only=True` reads them): the state dict, the
model's configuration, the class names in label order, and versions. A checkpoint knows its classes
by name, so it is never read with another set's labels.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from ctlib import runs
from ctlib.config import ModelConfig
from ctlib.models import VideoClassifier, build_model

FORMAT = 1


class CheckpointError(ValueError):
    """A file that is no checkpoint, or one that does not fit; the message says what does not."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: the model in evaluation mode, its class names in label order, and versions."""

    model: VideoClassifier
    classes: tuple[str, ...]
    versions: dict[str, str]


def save(path: str | Path, model: VideoClassifier, classes: Sequence[str]) -> None:
    """Write a network and the names of its classes; the file is whole or as it was.

    Raises:
        ValueError: another number of names than the model has classes, or a name twice.
    """
    classes = list(classes)
    if len(classes) != model.fc.out_features:
        raise ValueError(f"the model has {model.fc.out_features} classes, got {len(classes)} names")
    if len(set(classes)) != len(classes):
        raise ValueError(f"class names must differ, got twice: {_some(_repeated(classes))}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": model.config.to_dict(),
        "classes": classes,
        "versions": {name: version(name) for name in ("ctlib", "torch", "torchvision")},
        "state_dict": {key: value.cpu() for key, value in model.state_dict().items()},
    }
    runs.write_atomically(path, lambda partial: torch.save(content, partial))


def load(
    path: str | Path,
    classes: Sequence[str] | None = None,
    class_map: dict[str, str] | None = None,
    fresh_head: bool = False,
) -> Checkpoint:
    """Read a network that `save` wrote, on the CPU, in evaluation mode.

    Args:
        path: the file.
        classes: the names behind your labels, in label order; the checkpoint's own if not given. The
            same names in another order are sorted out by name.
        class_map: for names that differ: yours -> the checkpoint's. A name that it does not mention
            stands for itself. With it, some of the checkpoint's classes may go unused.
        fresh_head: take the trunk only, and give it a new, untrained classifier of `classes`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint of ours, or its classes are not those asked for.
    """
    content = _read(path)
    missing = [key for key in ("format", "model", "classes", "versions", "state_dict") if key not in content]
    if missing:
        raise CheckpointError(
            f"{path} is no checkpoint of ctlib: it lacks {', '.join(missing)} "
            "(for one that the authors released, use load_released)"
        )
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}, this version of ctlib reads {FORMAT}")
    state, own = dict(content["state_dict"]), list(content["classes"])
    wanted = own if classes is None else list(classes)
    if fresh_head:
        if classes is None:
            raise ValueError("fresh_head needs the names of its classes")
        del state["fc.weight"], state["fc.bias"]
    else:
        rows = _rows(path, wanted, own, class_map or {})
        state["fc.weight"], state["fc.bias"] = state["fc.weight"][rows], state["fc.bias"][rows]
    # The weights come from this file: the published ones that training began with need not be there.
    config = ModelConfig.from_dict({**content["model"], "num_classes": len(wanted), "weights": None})
    model = build_model(config)
    _fill(model, state, path, allowed=("fc.weight", "fc.bias") if fresh_head else ())
    model.config = replace(config, weights=content["model"]["weights"])
    return Checkpoint(model.eval(), tuple(wanted), content["versions"])


def load_released(
    model: VideoClassifier, source: str | Path | dict[str, torch.Tensor], fresh_head: bool = False
) -> VideoClassifier:
    """Fill a model from a checkpoint in the format of CT-Net's authors.

    After this `ctnet_r50` computes what their network computes on frames in order, normalised by
    ImageNet's mean and standard deviation. Their classes are in the order of their category.txt.

    Args:
        model: the network of the same shape: `ctnet_r50(174)` for Something-Something.
        source: the file, its content, or the state dict in it, with or without the `module.` prefix.
        fresh_head: leave the model's classifier as it is, which may then have other classes.

    Returns:
        `model`, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: what does not fit, by count and by name; the model is then as it was.
    """
    content = source if isinstance(source, dict) else _read(source)
    released = content.get("state_dict", content)
    name = "the state dict" if isinstance(source, dict) else str(source)
    if not released or not all(isinstance(value, torch.Tensor) for value in released.values()):
        raise CheckpointError(f"{name} holds no state dict of tensors")
    theirs = {_our_name(key): key for key in released}
    state = {ours: released[key] for ours, key in theirs.items() if not (fresh_head and ours.startswith("fc."))}
    _fill(model, state, name, allowed=("fc.weight", "fc.bias") if fresh_head else (), called=theirs)
    return model.eval()


# The authors' names inside a replaced block, and ours. x is their first sub-operation and y their second;
# z is the temporal convolution of either, so its number tells which.
_RELEASED_NAMES = [
    (r"^module\.", ""),
    (r"^(new_fc|base_model\.fc)\.", "fc."),
    (r"^base_model\.", "trunk."),
    (r"\.conv([13])\.0\.", r".conv\1."),
    (r"\.conv([13])\.1\.", r".bn\1."),
    (r"\.conv2\.conv1_x\.", ".conv2.sub_operations.0.spatial."),
    (r"\.conv2\.conv1_z\.", ".conv2.sub_operations.0.temporal."),
    (r"\.conv2\.conv2_y\.", ".conv2.sub_operations.1.spatial."),
    (r"\.conv2\.conv2_z\.", ".conv2.sub_operations.1.temporal."),
    (r"\.conv2\.fusion\.", ".conv2.pointwise.0."),
    (r"\.conv2\.([stc])x_attention\.", r".conv2.sub_operations.0.excitation.\1."),
    (r"\.conv2\.([stc])y_attention\.", r".conv2.sub_operations.1.excitation.\1."),
    (r"\.excitation\.s\.", ".excitation.spatial."),
    (r"\.excitation\.t\.", ".excitation.temporal."),
    (r"\.excitation\.c\.", ".excitation.channel."),
    (r"(\.excitation\..*)\.fc1\.0\.", r"\1.reduce."),
    (r"(\.excitation\..*)\.fc1\.1\.", r"\1.bn."),
    (r"(\.excitation\..*)\.fc2\.0\.", r"\1.expand."),
]


def _our_name(key: str) -> str:
    for pattern, name in _RELEASED_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _read(path: str | Path) -> dict:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors and plain values, and nothing else is loaded from a file: {error}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, needed a dict with a state dict")
    return content


def _fill(
    model: nn.Module, state: dict[str, torch.Tensor], name, allowed: Iterable[str] = (), called: dict | None = None
) -> None:
    """Load `state` into `model` if all of it fits; `allowed` may be missing. `called` has the file's own names."""
    called = called or {}
    needed = model.state_dict()
    counters = {key for key in needed if key.endswith("num_batches_tracked")}  # older files lack them
    missing = sorted(needed.keys() - state.keys() - counters - set(allowed))
    unexpected = sorted(called.get(key, key) for key in state.keys() - needed.keys())
    shapes = [
        f"{called.get(key, key)} {tuple(state[key].shape)}, needed {tuple(needed[key].shape)}"
        for key in sorted(needed.keys() & state.keys())
        if state[key].shape != needed[key].shape
    ]
    if missing or unexpected or shapes:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        lines = [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]
        hint = ""
        if any(
            state[key].shape != needed[key].shape for key in needed.keys() & state.keys() & {"fc.weight", "fc.bias"}
        ):
            hint = "\n  (another number of classes: fresh_head=True takes the rest and leaves the classifier new)"
        raise CheckpointError(f"{name} does not fit the model:\n  " + "\n  ".join(lines) + hint)
    model.load_state_dict({**needed, **state})


def _rows(path, wanted: list[str], own: list[str], class_map: dict[str, str]) -> list[int]:
    """Which rows of the checkpoint's classifier are the classes wanted, in their order."""
    unused = sorted(class_map.keys() - set(wanted))
    if unused:
        raise CheckpointError(f"class_map names {len(unused)} that are not among your classes: {_some(unused)}")
    sources = [class_map.get(name, name) for name in wanted]
    unknown = sorted(set(sources) - set(own))
    left = [] if class_map else sorted(set(own) - set(sources))
    if unknown or left or len(set(sources)) != len(sources):
        lines = []
        if unknown:
            lines.append(f"{len(unknown)} that it does not have: {_some(unknown)}")
        if left:
            lines.append(f"{len(left)} that you do not: {_some(left)}")
        if len(set(sources)) != len(sources):
            lines.append(f"asked for twice: {_some(_repeated(sources))}")
        raise CheckpointError(
            f"{path} has {len(own)} classes, other ones than the {len(wanted)} asked for:\n  "
            + "\n  ".join(lines)
            + "\n  (class_map says which of its classes stand for yours; fresh_head=True takes a new classifier)"
        )
    return [own.index(name) for name in sources]


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _some(names: list[str], most: int = 12) -> str:
    """Names in a line; of a great many, the first ones and how many more."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
