"""Networks on disk: our own checkpoints, and those that CT-Net's authors released.

Ours are safetensors with a header in JSON: the model's configuration, the class names in label order, how it sees a
video, versions, and a digest of all that. Because classes are stored by name, a checkpoint is never read with the
labels of another data set.
Earlier ones, and the authors', are torch files. Of these nothing but tensors and plain values is loaded.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import torch
from torch import nn

from ctlib import files
from ctlib.config import ModelConfig
from ctlib.data.views import View
from ctlib.models import VideoClassifier, model_config, name_of, unwrapped
from ctlib.rivals import build_model  # which knows every system's networks
from ctlib.weights import SUFFIX, names, tensors
from ctlib.weights.hub import Shared
from ctlib.weights.places import check_exists, located
from ctlib.weights.places import existing as existing
from ctlib.weights.places import find as find

FORMAT = 3
HEAD = ("fc.weight", "fc.bias")


class CheckpointError(files.OneLineError, ValueError):
    """A file that is not a checkpoint, or does not fit; the message says what is wrong.

    Attributes:
        missing: parameters of the model that the file lacks, by the model's names.
        unexpected: parameters of the file that the model lacks, by the file's names.
        mis_shaped: "name shape, needed shape" of what both have, by the file's names.
    """

    def __init__(self, message: str, missing=(), unexpected=(), mis_shaped=()):
        super().__init__(message)
        self.missing, self.unexpected, self.mis_shaped = tuple(missing), tuple(unexpected), tuple(mis_shaped)


@dataclass(frozen=True)
class Checkpoint(Shared):
    """A trained network, with all that belongs to it."""

    model: VideoClassifier  # in evaluation mode
    classes: tuple[str, ...]  # names, in label order
    versions: dict[str, str] = field(default_factory=dict)  # of the packages that wrote it
    view: View | None = None  # how it was tested; None in earlier files, in the authors', and where none was saved
    record: dict | None = None  # of its test (`records.IN_CHECKPOINT`); None where none was saved
    half: bool = False  # whether `save` rounds weights to float16

    def describe(self) -> dict:
        """All except the weights, as JSON can hold it."""
        return {"name": name_of(self.model.config), **_header(self.model, self.classes, self.view, self.record)}

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads: `save` of this module."""
        save(path, self.model, self.classes, self.view, self.record, self.half)

    @classmethod
    def read(cls, path: str | Path) -> "Checkpoint":
        """`load` of this module."""
        return load(path)


from_pretrained = Checkpoint.from_pretrained


def save(
    path: str | Path,
    model: VideoClassifier,
    classes: Sequence[str],
    view: View | None = None,
    record: dict | None = None,
    half: bool = False,
) -> None:
    """Write a network and the names of its classes; after an error the file is as it was.

    Args:
        path: ends in ".safetensors".
        model: the network; it may be compiled, or wrapped for several devices or processes.
        classes: the names, in label order.
        view: how the network is to see a video, so that whoever loads it need not know.
        record: of its test, as JSON can hold it.
        half: write weights in float16, and biases and batch norms as they are; `load` gives them in float32.

    Raises:
        ValueError: another name of the file, another number of names than the model has classes, a name twice, or
            weights that are not finite; a model without classes, which `load` cannot read.
        TypeError: another kind of network.
    """
    path, model, classes = Path(path).expanduser(), unwrapped(model), _names(classes)
    if path.suffix != SUFFIX:
        raise ValueError(f"a checkpoint is written as a {SUFFIX} file, got {path}")
    if not isinstance(model, VideoClassifier):
        raise TypeError(f"a checkpoint holds a {VideoClassifier.__name__}, got {type(model).__name__}")
    if not model.num_classes:
        raise ValueError("the model has no classes, and a checkpoint needs them: reset_classifier gives it some")
    if len(classes) != model.num_classes:
        raise ValueError(f"the model has {model.num_classes} classes, got {len(classes)} names")
    state = tensors.halved(model.state_dict()) if half else model.state_dict()
    if broken := tensors.not_finite(state):
        raise ValueError(f"{path} is not written: the model's weights are not finite: {_some(broken, 3)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors.save(path, state, _header(model, classes, view, record))


def _header(model: VideoClassifier, classes: Sequence[str], view: View | None, record: dict | None) -> dict:
    versions = {name: files.version(name) for name in ("ctlib", "torch", "torchvision")}
    header = {"format": FORMAT, "model": model.config.to_dict(), "classes": list(classes), "versions": versions}
    optional = {"view": view and view.to_dict(), "record": record}
    return header | {name: value for name, value in optional.items() if value}


def load(
    path: str | Path,
    classes: Sequence[str] | None = None,
    class_map: dict[str, str] | None = None,
    fresh_head: bool = False,
) -> Checkpoint:
    """Read a network that `save` wrote, on the CPU, in evaluation mode, in the precision in which it was saved.

    Where only its weights are in float16, it is in float32.

    Args:
        path: the file, or what `located` finds it by.
        classes: the names of your labels, in label order; the checkpoint's own if not given. The order
            may differ from the checkpoint's.
        class_map: for names that differ: yours -> the checkpoint's. Names that it leaves out are the
            same in both. With it, classes of the checkpoint may be unused.
        fresh_head: load the backbone only, with a new, untrained classifier of `classes`.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: it is not a checkpoint of ours, or it has other classes than asked for.
        ValueError: arguments that exclude each other, or a class name twice.
    """
    if fresh_head and (classes is None or class_map):
        raise ValueError("fresh_head needs the names of its classes, and no class_map")
    content = _read(path)
    config, own, state = _ours(content, path)
    view = _view(content, path)
    wanted = own if classes is None else _names(classes)
    if fresh_head:
        state = {key: value for key, value in state.items() if key not in HEAD}
    else:
        rows = _rows(path, wanted, own, class_map or {})
        state.update({key: state[key][rows] for key in HEAD})
    # Without the published weights that training may have started from: all weights are in this file.
    try:
        model = build_model(replace(config, num_classes=len(wanted), weights=None))
    except Exception as error:  # a header that was changed can ask for anything
        raise _unknown_network(path, error) from None
    model.to(reduce(torch.promote_types, (value.dtype for value in state.values() if value.is_floating_point())))
    _fill(model, state, path, allowed=HEAD if fresh_head else ())
    model.config = replace(model.config, weights=config.weights)
    return Checkpoint(model.eval(), tuple(wanted), content["versions"], view, _record(content, path))


def _record(content: dict, path: str | Path) -> dict | None:
    record = content.get("record")
    if record is not None and not isinstance(record, dict):
        raise CheckpointError(f"{path} has a record that is {type(record).__name__}, needed keys and values")
    return record


def view_of(path: str | Path) -> View | None:
    """How the network of a checkpoint, ours or the authors', is to see a video; None if the file does not say.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: it is not a checkpoint.
    """
    return _view(_read(path), path)


def _view(content: dict, path: str | Path) -> View | None:
    values = content.get("view")
    try:
        return None if values is None else View.from_dict(values)
    except (ValueError, TypeError, AttributeError) as error:
        reason = files.one_line(error, 300)
        raise CheckpointError(f"{path} describes a view that this version of ctlib does not know: {reason}") from None


def _ours(content: dict, path: str | Path) -> tuple[ModelConfig, list[str], dict[str, torch.Tensor]]:
    """The parts of a file that `save` wrote: configuration, class names, state dict."""
    kinds = {"format": int, "model": dict, "classes": list, "versions": dict, "state_dict": dict}
    missing = [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]
    if missing:
        hint = "it was written by an older ctlib" if "model" in content else "for the authors' own, use load_released"
        raise CheckpointError(f"{path} is not a checkpoint of this ctlib: it lacks {', '.join(missing)} ({hint})")
    if not 1 <= content["format"] <= FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}, this version of ctlib reads 1 to {FORMAT}")
    _check_state(content["state_dict"], path)
    table = names.EARLIER if content["format"] == 1 else []
    state, model = (
        {names.renamed(str(key), table): value for key, value in content[part].items()}
        for part in ("state_dict", "model")
    )
    try:
        classes, config = _names(content["classes"]), ModelConfig.from_dict(model)
    except (ValueError, TypeError) as error:
        raise _unknown_network(path, error) from None
    heads = [state.get(key) for key in HEAD]
    if any(head is None or head.shape[:1] != (len(classes),) for head in heads):
        raise CheckpointError(f"{path} names {len(classes)} classes, but its classifier has another number")
    return config, classes, state


def _unknown_network(path: str | Path, error: Exception) -> CheckpointError:
    reason = files.one_line(error, 300)
    return CheckpointError(f"{path} describes a network that this version of ctlib does not know: {reason}")


def load_released(
    model: VideoClassifier, source: str | Path | dict[str, torch.Tensor], fresh_head: bool = False
) -> VideoClassifier:
    """Fill a model from a checkpoint in the format of CT-Net's authors.

    Then `ctnet_r50` computes what their network computes on frames in order, normalised by ImageNet's
    mean and standard deviation. Their classes are in the order of their category.txt.

    Args:
        model: the network of the same shape: `ctnet_r50(174)` for Something-Something.
        source: the file, its content, or the state dict in it, with or without the `module.` prefix.
        fresh_head: leave the model's classifier as it is; it may then have other classes.

    Returns:
        `model`, in evaluation mode.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: what does not fit, by number and name; the model is then unchanged.
    """
    content = source if isinstance(source, dict) else _read(source)
    released = content.get("state_dict", content)
    name = "the state dict" if isinstance(source, dict) else str(source)
    _check_state(released, name)
    theirs = {}
    for key in released:
        other = theirs.setdefault(names.renamed(key, names.RELEASED), key)
        if other != key:
            raise CheckpointError(f"{name} has {other} and {key}, which are the same parameter")
    state = {ours: released[key] for ours, key in theirs.items() if not (fresh_head and ours.startswith("fc."))}
    _fill(model, state, name, allowed=HEAD if fresh_head else (), called=theirs)
    return model.eval()


def load_any(path: str | Path, classes: Sequence[str], released: str = "", num_frames: int | None = None) -> Checkpoint:
    """Read a network for `classes` from a checkpoint of ours, or of CT-Net's authors.

    Args:
        path: the file.
        classes: names in label order. The authors' files have no names; only the number is compared.
        released: for an authors' file, the network's name in `models.MODELS`.
        num_frames: T of an authors' file; if not given, it is read from "segment8" in the path, which is how their
            trainer names its folders.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: it is neither, or it does not fit.
        ValueError: an unknown network, or an unknown T.
    """
    if "model" in _read(path):
        return load(path, classes)
    if not released:
        raise CheckpointError(f"{path} is not a checkpoint of ours; if it is the authors', name its network (released)")
    segments = re.findall(r"segment(\d+)", str(path))
    if not num_frames and not segments:
        raise ValueError(
            f"{path} has the authors' format, which does not contain the number of frames: give num_frames"
        )
    config = model_config(released, num_classes=len(classes), num_frames=num_frames or int(segments[-1]))
    return Checkpoint(load_released(build_model(config), path), tuple(classes), {})


def start_from(path: str | Path, model: VideoClassifier, classes: Sequence[str]) -> None:
    """Load the weights of a checkpoint, ours or the authors', to start training from.

    The classifier is loaded if the checkpoint names the same classes, in any order. Otherwise it stays new, as it
    does with the authors' files, which name no classes.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: it is not a checkpoint, or one of another network: what does not fit, by name.
    """
    content = _read(path)
    if "model" not in content:
        load_released(model, content, fresh_head=True).train()
        return
    config, own, state = _ours(content, path)
    same, (saved, wanted) = sorted(own) == sorted(classes), map(name_of, (config, model.config))
    for key in HEAD:
        head = state.pop(key)
        if same:
            state[key] = head[[own.index(name) for name in classes]]
    try:
        _fill(model, state, path, allowed=() if same else HEAD)
    except CheckpointError:
        if saved == wanted:
            raise
        raise CheckpointError(f"{path} is a network {saved}, needed {wanted}") from None


def _read(path: str | Path) -> dict:
    check_exists(path)
    file = located(path)
    if file.suffix == SUFFIX:
        try:
            header, state = tensors.load(file)
        except ValueError as error:
            raise CheckpointError(f"{path} {error}") from error
        return {**header, "state_dict": state}
    try:
        content = tensors.load_torch(file)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is no checkpoint, or damaged: it cannot be read as tensors and plain values ({error}); nothing "
            "else is loaded from a file"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, needed a dict with a state dict")
    return content


def _check_state(state, name: str | Path) -> None:
    """Raise CheckpointError unless it is a state dict of plain tensors."""
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{name} holds no state dict of tensors")
    for key, value in state.items():
        kind = value.layout if isinstance(value, torch.Tensor) else type(value).__name__
        if kind != torch.strided or not isinstance(key, str):
            raise CheckpointError(f"{name} needs dense tensors by name, got {files.one_line(repr(key), 80)}: {kind}")


def _fill(
    model: nn.Module, state: dict[str, torch.Tensor], name, allowed: Iterable[str] = (), called: dict | None = None
) -> None:
    """Load `state` into `model` if all of it fits; `allowed` may be missing. `called` has the file's own names."""
    called = called or {}
    needed = model.state_dict()
    counters = {key for key in needed if key.endswith("num_batches_tracked")}  # older files lack them
    missing = sorted(needed.keys() - state.keys() - counters - set(allowed))
    unexpected = sorted(called.get(key, key) for key in state.keys() - needed.keys())
    differing = [key for key in sorted(needed.keys() & state.keys()) if _kind(state[key]) != _kind(needed[key])]
    mis_shaped = [f"{called.get(key, key)} {_kind(state[key])}, needed {_kind(needed[key])}" for key in differing]
    if missing or unexpected or mis_shaped:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": mis_shaped}
        lines = [f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names]
        if set(HEAD) & set(differing):
            lines.append("another number of classes: fresh_head=True loads the rest and keeps a new classifier")
        raise CheckpointError(f"{name} does not fit the model: {'; '.join(lines)}", missing, unexpected, mis_shaped)
    if broken := tensors.not_finite(state):
        raise CheckpointError(f"{name} holds weights that are not finite: {_some(broken, 3)}")
    model.load_state_dict({**needed, **state})


def _kind(value: torch.Tensor) -> str:
    """Shape, and the dtype of integers: floating-point tensors of any precision fit each other."""
    return f"{tuple(value.shape)}" + ("" if value.is_floating_point() else f" of {value.dtype}")


def _rows(path, wanted: list[str], own: list[str], class_map: dict[str, str]) -> list[int]:
    """The rows of the checkpoint's classifier that are the classes wanted, in their order."""
    unused = sorted(class_map.keys() - set(wanted))
    if unused:
        raise CheckpointError(f"class_map names {len(unused)} that are not among your classes: {_some(unused)}")
    sources = [class_map.get(name, name) for name in wanted]
    problems = {
        "that it does not have": sorted(set(sources) - set(own)),
        "that you do not": [] if class_map else sorted(set(own) - set(sources)),
        "asked for twice": _repeated(sources),
    }
    lines = [f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names]
    if lines:
        raise CheckpointError(
            f"{path} has {len(own)} classes, other ones than the {len(wanted)} asked for: {'; '.join(lines)} "
            "(class_map: your name -> its name; fresh_head=True starts a new classifier)"
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
    """The first names, separated by commas, and how many more."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
