"""Networks on disk: our own checkpoints, and those that CT-Net's authors released.

Ours hold tensors and plain values only (`weights_only=True` reads them): the state dict, the
model's configuration, the class names in label order, and versions. A checkpoint knows its classes
by name, so it is never read with another set's labels.
"""

import glob
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from ctlib import files
from ctlib.config import ModelConfig
from ctlib.models import VideoClassifier, build_model, model_config

FORMAT = 1


class CheckpointError(ValueError):
    """A file that is no checkpoint, or one that does not fit; the message says what does not.

    Attributes:
        missing: names that the model has and the file lacks, as the model calls them.
        unexpected: names that the file has and the model does not, as the file calls them.
        mis_shaped: "name shape, needed shape" of what both have, as the file calls it.
    """

    def __init__(self, message: str, missing=(), unexpected=(), mis_shaped=()):
        super().__init__(message)
        self.missing, self.unexpected, self.mis_shaped = tuple(missing), tuple(unexpected), tuple(mis_shaped)


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
    model = getattr(model, "_orig_mod", model)  # of a compiled network, the network itself
    classes = _names(classes)
    if len(classes) != model.fc.out_features:
        raise ValueError(f"the model has {model.fc.out_features} classes, got {len(classes)} names")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": model.config.to_dict(),
        "classes": classes,
        "versions": {name: str(version(name)) for name in ("ctlib", "torch", "torchvision")},
        "state_dict": {key: value.cpu() for key, value in model.state_dict().items()},
    }
    files.write_atomically(path, lambda partial: torch.save(content, partial))


def load(
    path: str | Path,
    classes: Sequence[str] | None = None,
    class_map: dict[str, str] | None = None,
    fresh_head: bool = False,
) -> Checkpoint:
    """Read a network that `save` wrote, on the CPU, in evaluation mode, in the precision in which it was saved.

    Args:
        path: the file.
        classes: the names behind your labels, in label order; the checkpoint's own if not given. The
            same names in another order are sorted out by name.
        class_map: for names that differ: yours -> the checkpoint's. A name that it does not mention
            stands for itself. With it, some of the checkpoint's classes may go unused.
        fresh_head: take the backbone only, and give it a new, untrained classifier of `classes`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint of ours, or its classes are not those asked for.
        ValueError: arguments that do not go together, or a class name twice.
    """
    if fresh_head and (classes is None or class_map):
        raise ValueError("fresh_head needs the names of its classes, and no class_map")
    content = _read(path)
    config, own, state = _ours(content, path)
    wanted = own if classes is None else _names(classes)
    if fresh_head:
        del state["fc.weight"], state["fc.bias"]
    else:
        rows = _rows(path, wanted, own, class_map or {})
        state["fc.weight"], state["fc.bias"] = state["fc.weight"][rows], state["fc.bias"][rows]
    # The weights come from this file: the published ones that training began with need not be there.
    model = build_model(replace(config, num_classes=len(wanted), weights=None))
    model.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    _fill(model, state, path, allowed=("fc.weight", "fc.bias") if fresh_head else ())
    model.config = replace(model.config, weights=config.weights)
    return Checkpoint(model.eval(), tuple(wanted), content["versions"])


def _ours(content: dict, path: str | Path) -> tuple[ModelConfig, list[str], dict[str, torch.Tensor]]:
    """The parts of a file that `save` wrote: configuration, class names, state dict."""
    kinds = {"format": int, "model": dict, "classes": list, "versions": dict, "state_dict": dict}
    missing = [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]
    if missing:
        older = "it was written by an older ctlib" if "model" in content else "for the authors' own, use load_released"
        raise CheckpointError(f"{path} is no checkpoint of this ctlib: it lacks {', '.join(missing)} ({older})")
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}, this version of ctlib reads {FORMAT}")
    state, classes = dict(content["state_dict"]), list(content["classes"])
    heads = [state.get(key) for key in ("fc.weight", "fc.bias")]
    if any(not isinstance(head, torch.Tensor) or len(head) != len(classes) for head in heads):
        raise CheckpointError(f"{path} names {len(classes)} classes, and its classifier is not one of as many")
    try:
        return ModelConfig.from_dict(content["model"]), classes, state
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} describes a network that this version of ctlib does not know: {error}") from None


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
    tensors = released.values() if isinstance(released, dict) else ()
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors):
        raise CheckpointError(f"{name} holds no state dict of tensors")
    theirs = {}
    for key in released:
        other = theirs.setdefault(_our_name(key), key)
        if other != key:
            raise CheckpointError(f"{name} has {other} and {key}, which stand for the same parameter")
    state = {ours: released[key] for ours, key in theirs.items() if not (fresh_head and ours.startswith("fc."))}
    _fill(model, state, name, allowed=("fc.weight", "fc.bias") if fresh_head else (), called=theirs)
    return model.eval()


def load_any(path: str | Path, classes: Sequence[str], released: str = "", num_frames: int | None = None) -> Checkpoint:
    """Read a network for `classes` from a checkpoint of ours, or of CT-Net's authors.

    Args:
        path: the file.
        classes: names in label order; the authors' files have no names, and only the number is compared.
        released: of the authors' file, the network's name in `models.MODELS`.
        num_frames: T of the authors' file, which does not say it; if not given, it is read from a "segment8" in the
            path, as TSM's trainer, on which theirs is built, names its folders. Ours know theirs.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is neither, or it does not fit.
        ValueError: an unknown network, or T is not known.
    """
    if "model" in _read(path):
        return load(path, classes)
    if not released:
        raise CheckpointError(f"{path} is no checkpoint of ours; if it is of the authors, say of which network")
    told = re.findall(r"segment(\d+)", str(path))
    if not num_frames and not told:
        raise ValueError(
            f"{path} is of the authors' format, which does not say for how many frames: say it (num_frames)"
        )
    config = model_config(released, num_classes=len(classes), num_frames=num_frames or int(told[-1]))
    return Checkpoint(load_released(build_model(config), path), tuple(classes), {})


def start_from(path: str | Path, model: VideoClassifier, classes: Sequence[str]) -> None:
    """Give a network the weights of a checkpoint, ours or the authors', to go on training from.

    The classifier comes along if the checkpoint names the same classes, in whatever order; else it stays
    new, and with the authors' files always, as they name none.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint, or one of another network: what does not fit, by name.
    """
    content, head = _read(path), ("fc.weight", "fc.bias")
    if "model" not in content:
        load_released(model, content, fresh_head=True).train()
        return
    _, own, state = _ours(content, path)
    same = sorted(own) == sorted(classes)
    rows = _rows(path, list(classes), own, {}) if same else []
    state.update({key: state[key][rows] for key in head})
    if not same:
        state = {key: value for key, value in state.items() if key not in head}
    _fill(model, state, path, allowed=() if same else head)


def find(patterns: str, root: str | Path) -> list[Path]:
    """The files that patterns match, separated by spaces (one with a space in it in quotes), in that order, each once.

    `**` matches any folders. Relative patterns are below `root`.

    Raises:
        FileNotFoundError: a pattern, which is named, matches no file, or there is none.
    """
    found = []
    for pattern in shlex.split(patterns):
        files = sorted(glob.glob(str(Path(root) / Path(pattern).expanduser()), recursive=True))
        files = [Path(file) for file in files if os.path.isfile(file)]
        if not files:
            raise FileNotFoundError(f"no checkpoint matches {pattern!r}")
        found += files
    if not found:
        raise FileNotFoundError("no checkpoint is named")
    return list(dict.fromkeys(found))


# The authors' names inside a replaced block, and ours. x is their first sub-operation and y their second;
# z is the temporal convolution of either, so its number tells which.
_RELEASED_NAMES = [
    (r"^module\.", ""),
    (r"^(new_fc|base_model\.fc)\.", "fc."),
    (r"^base_model\.", "backbone."),
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
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as tensors and plain values ({reason[:120]}); nothing else is loaded from a file"
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
    differing = [key for key in sorted(needed.keys() & state.keys()) if not _fits(state[key], needed[key])]
    mis_shaped = [f"{called.get(key, key)} {_kind(state[key])}, needed {_kind(needed[key])}" for key in differing]
    if missing or unexpected or mis_shaped:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": mis_shaped}
        lines = [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]
        hint = ""
        if {"fc.weight", "fc.bias"} & set(differing):
            hint = "\n  (another number of classes: fresh_head=True takes the rest and leaves the classifier new)"
        text = f"{name} does not fit the model:\n  " + "\n  ".join(lines) + hint
        raise CheckpointError(text, missing, unexpected, mis_shaped)
    model.load_state_dict({**needed, **state})


def _fits(value: torch.Tensor, needed: torch.Tensor) -> bool:
    return value.shape == needed.shape and value.is_floating_point() == needed.is_floating_point()


def _kind(value: torch.Tensor) -> str:
    return f"{tuple(value.shape)}" + ("" if value.is_floating_point() else f" of {value.dtype}")


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


def _names(classes: Sequence[str]) -> list[str]:
    """Class names as plain strings, each once."""
    if isinstance(classes, str):
        raise ValueError(f"classes must be a sequence of names, got the one string {classes!r}")
    names = [str(name) for name in classes]
    if len(set(names)) != len(names):
        raise ValueError(f"class names must differ, got twice: {_some(_repeated(names))}")
    return names


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _some(names: list[str], most: int = 12) -> str:
    """Names in a line; of a great many, the first ones and how many more."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
