"""What a run is asked to be, as frozen dataclasses: model, data, recipe, compute, run.

An ablation is `dataclasses.replace(base, part=other)`. Each value is checked when it is set. An unknown key is an error
that names the nearest known one, so no run starts with a parameter that nothing reads.
"""

import difflib
import json
import math
import operator
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

KERNELS = ("auto", "plain")  # how ways of an operation are chosen on a GPU: by timing them, or not at all

# Names of earlier versions (parameters, keys and values), and what to write instead. Errors about them say so.
RENAMED = {
    "trunk": "backbone",
    "own_row": "custom_row",
    "fingerprint": "nothing: `training.run.resolve` computes it",
    "start_digest": "nothing: `training.run.resolve` computes it",
    "batch": 'overrides="recipe.batch=..." (in saliency_tubes: overrides="compute.micro_batch=...")',
    "lr": 'overrides="recipe.lr=..."',
    "num_frames": 'overrides="model.num_frames=..."',
    "size": 'overrides="data.size=..."',
    "workers": 'overrides="data.workers=..."',
    "micro_batch": 'overrides="compute.micro_batch=..."',
    "precision": 'overrides="compute.precision=..."',
    "threads": 'overrides="compute.threads=..."',
    "tensorboard": 'overrides="compute.tracker=tensorboard"',
    "fold": 'overrides="data.fold=..."',
    "val_share": 'overrides="data.val_share=..."',
    "lists": 'overrides="data.lists=..."',
    "checked": 'overrides="data.checked=..."',
    "on_error": 'overrides="data.on_error=..."',
    "short_side": 'overrides="data.short_side=..."',
    "sampling": 'overrides="data.sampling=..."',
    "something_v1_root": 'roots="something-v1=FOLDER"',
    "mini_kinetics_200_root": 'roots="mini-kinetics-200=FOLDER"',
    "ucf101_root": 'roots="ucf101=FOLDER"',
    "hmdb51_root": 'roots="hmdb51=FOLDER"',
    "epochs": 'overrides="recipe.epochs=..."',
    "groups": 'overrides="synthetic.groups=..."',
    "clips_a_group": 'overrides="synthetic.clips=..."',
    "device": 'overrides="compute.device=cpu"',
    "placement": 'overrides="saliency.placement=..."',
    "threshold": 'overrides="saliency.threshold=..."',
    "jobs": "nothing: one network is trained per CPU core at once",
    "settings": "num_seeds, classes, released_model, and overrides for the rest",
    "seeds": "num_seeds in saliency_tubes, else seed",
    "runs_dir": "tables_dir, the folder of the tables of the study",
    "videos": 'clips="..."',
}


def unknown_name(kind: str, name: str, known) -> str:
    """The text of an error: what is unknown, what replaced it or the nearest known name, and the known ones if few."""
    known = [str(one) for one in known]
    if name in RENAMED:
        return f"{kind} {name!r:.100} was replaced: write {RENAMED[name]}"
    near = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = (
        f"{len(known)} are known, such as {', '.join(known[:4])}"
        if len(known) > 40
        else f"known are {', '.join(known)}"
    )
    return f"unknown {kind} {name!r:.100}: {hint}{listed}"


def check_choice(kind: str, name, known) -> None:
    """Raise ValueError unless `name` is one of `known`."""
    if name not in known:
        raise ValueError(unknown_name(kind, name, known))


def check_type(name: str, value, kind) -> None:
    """Raise TypeError unless `value` is of the annotated type `kind`; an int serves as a float."""
    if not _is_a(value, kind):
        kind_name = getattr(kind, "__name__", str(kind))
        raise TypeError(f"{name} must be {kind_name}, got {type(value).__name__} {value!r:.100}")


def _is_a(value, kind) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is_a(value, arg) for arg in args)
    if origin is tuple:
        kinds = [args[0]] * len(value) if isinstance(value, tuple) and args[-1] is Ellipsis else args
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if origin is list:
        return isinstance(value, list) and all(_is_a(item, args[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


_NO_LETTERS = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of characters, ends of lines


def check_file_name(name: str) -> None:
    """Raise ValueError unless `name` can be a folder's on Linux and macOS, and patterns such as `*` find it."""
    wrong = not name or name != name.strip() or name.startswith(".") or len(name.encode(errors="replace")) > 200
    if wrong or any(letter in "/\\" or unicodedata.category(letter) in _NO_LETTERS for letter in name):
        needed = "1 to 200 bytes, no slash or control character, no leading dot"
        raise ValueError(f"name must be a folder's: {needed}, got {name[:60]!r}")


def as_tuples(value):
    """Lists, as JSON and papermill give them, to the tuples that a frozen dataclass holds."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a configuration by "part.name"; lists are the tuples that they are in a configuration."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, as_tuples(value)


def parse_words(text: str, parse: Callable[[str], Any], needed: str) -> tuple:
    """The values of words separated by spaces, at least one and each different.

    Args:
        text: the words, as a parameter gives them.
        parse: one word -> its value; it raises ValueError or KeyError for a wrong word.
        needed: what the error says, such as "seeds must be whole numbers, as in '0 1 2'".

    Raises:
        ValueError: no word, a word without a value, or the same value twice.
    """
    try:
        values = tuple(parse(word) for word in text.split())
    except (ValueError, KeyError):
        values = ()
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{needed}, got {text!r:.100}")
    return values


_NAMED = r"[\w.-]+="  # where a pair begins
_PAIR = re.compile(
    rf"""{_NAMED}(?:"(?:\\.|[^"\\])*"|'[^']*')(?=\s|$)|(?:(?!\s+['"]?{_NAMED}).)+""",
    re.DOTALL,
)


def split_pairs(text: str) -> list[str]:
    """The "name=value" pairs in a text, each as it stands there.

    A pair ends where the next name and its "=" begin, so a value may hold spaces, quotes and brackets. Only a value
    that holds a space and then such a name needs quotes.
    """
    pairs = [match.strip() for match in _PAIR.findall(text.strip())]
    # Quotes around a whole pair, as for a shell, are moved to its value.
    return [re.sub(rf"""^(['"])({_NAMED})(.*)\1$""", r"\2\1\3\1", pair, flags=re.DOTALL) for pair in pairs]


def unquoted(value: str) -> str:
    """The text of a value: without its quotes if it has some, and with spaces for "\\ "."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value.replace("\\ ", " ")


def parse_pairs(text: str) -> dict[str, Any]:
    """The keys and values of "part.name=value" pairs (`split_pairs`); a value is JSON, or text.

    Text in quotes is JSON too where a field of `RunConfig` takes no text: 'model.dims="[-1, 4]"'. Where a
    field takes text and not the JSON value, the text is kept: data.checked=2024.

    Raises:
        ValueError: something that is no such pair.
    """
    pairs = {}
    for pair in split_pairs(text):
        key, equals, value = pair.partition("=")
        if not equals or "." not in key:
            raise ValueError(f"overrides are part.name=value separated by spaces, got {pair!r:.100}")
        read, hint = _json_or_text(value), _type_of(key)
        if isinstance(read, str) and read != value and not _is_a("", hint):
            read = _json_or_text(read)
        elif _is_a("", hint) and not _is_a(as_tuples(read), hint):
            read = value
        pairs[key] = read
    return pairs


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return unquoted(value)


def _type_of(key: str):
    """The annotated type of the field "part.name" of a run; `object` for what is no such field."""
    part, _, name = key.partition(".")
    kind = typing.get_type_hints(RunConfig).get(part)
    is_part = isinstance(kind, type) and issubclass(kind, Config)
    return typing.get_type_hints(kind).get(name, object) if is_part else object


def pairs_of(values: dict, prefix: str = "") -> str:
    """A mapping, as YAML gives it, as the text of pairs: {"recipe": {"lr": 0.1}} and {"recipe.lr": 0.1} alike."""
    words = []
    for key, value in values.items():
        if isinstance(value, dict):
            words.append(pairs_of(value, f"{prefix}{key}."))
        else:
            words.append(f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}")
    return " ".join(words)


_BOUNDS = {"at least": operator.ge, "at most": operator.le, "above": operator.gt, "below": operator.lt}


class Config:
    """The base of the dataclasses below: values are checked, and become a dict and back."""

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for entry in fields(self):
            value = as_tuples(getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
            check_type(entry.name, value, hints[entry.name])
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{entry.name} must be finite, got {value}")
            for words, holds in _BOUNDS.items():
                bound = entry.metadata.get(words)
                if bound is not None and value is not None and not holds(value, bound):
                    raise ValueError(f"{entry.name} must be {words} {bound}, got {value}")
            if "one_of" in entry.metadata:
                check_choice(entry.name, value, entry.metadata["one_of"])

    def to_dict(self) -> dict:
        """Plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict):
        """The inverse of `to_dict`. Raises ValueError on an unknown key, naming the nearest."""
        hints = typing.get_type_hints(cls)
        parts = {}
        for key, value in values.items():
            check_choice(f"key of {cls.__name__}", key, hints)
            nested = isinstance(hints[key], type) and issubclass(hints[key], Config) and isinstance(value, dict)
            parts[key] = hints[key].from_dict(value) if nested else value
        return cls(**parts)


def at_least(low, default):
    return field(default=default, metadata={"at least": low})


def above(low, default):
    return field(default=default, metadata={"above": low})


def between(low, high, default):
    return field(default=default, metadata={"at least": low, "at most": high})


def one_of(choices, default):
    return field(default=default, metadata={"one_of": tuple(choices)})


@dataclass(frozen=True)
class ModelConfig(Config):
    """A network: a 2D backbone over frames, and what replaces the 3x3 convolution in some of its blocks."""

    num_classes: int = at_least(0, 174)  # 0: pooled features in place of scores
    num_frames: int = at_least(1, 8)  # T, per clip; the network takes any other T too
    backbone: str = "resnet50"  # a name of `backbones.BACKBONES`
    # Where it is replaced: a name of `backbones.PLACEMENTS`, indices of blocks per stage, or (InceptionV3) names of
    # convolutions.
    blocks: str | tuple[tuple[int, ...], ...] | tuple[str, ...] = "stage2-5"
    # What replaces it: ct (the CT-Module, with the five parts below), c3d, r2plus1d or csn; or one of `rivals.SYSTEMS`.
    module: str = "ct"
    dims: int | tuple[int, ...] = 2  # K, or the sizes (C_1, ..., C_K); -1 takes the rest
    kernels: tuple[int, int, int] | tuple[tuple[int, int, int], ...] = (3, 3, 3)  # (t, h, w), of all sizes or of each
    connection: str = "parallel"  # of space and time: parallel, serial, coupling
    pointwise: bool = True  # a dense point-wise convolution between sub-operations
    excitation: str = "te"  # te, se, none
    dropout: float = between(0, 1, 0.3)  # before the classifier
    # Of the backbone: None (random), "imagenet", "shapes" (`weights.SHAPES`), or a file of `notebooks/pretrain.ipynb`.
    weights: str | None = None

    def __post_init__(self):
        super().__post_init__()
        parts = ("dims", "kernels", "connection", "pointwise", "excitation")
        swapped = [part for part in parts if getattr(self, part) != getattr(ModelConfig, part)]
        if self.module != "ct" and swapped:
            raise ValueError(f"{', '.join(swapped)} are parts of the CT-Module, which {self.module!r} does not have")
        if self.blocks == "none" and (swapped or self.module != "ct"):
            raise ValueError(f"{', '.join(swapped or ['module'])} would be in replaced blocks, and blocks is 'none'")


@dataclass(frozen=True)
class DataConfig(Config):
    """Which clips a network sees, in training and in testing."""

    name: str = "arrow"  # a name of `data.catalog.DATASETS`
    root: str = ""  # the folder of the data set
    fold: int | None = None  # which of the splits of UCF101 and HMDB51; None: the first
    val_share: float | None = None  # share of a folder without splits to test on; None: a fifth
    lists: str = ""  # the folder of the lists of the data set "list", if it is not root
    checked: str = ""  # the folder of `check-videos`' lists; bad videos are left out
    on_error: str = one_of(("stop", "skip"), "stop")  # at an unreadable video; skip: it is counted, up to max_skipped
    max_skipped: float = between(0, 100, 1.0)  # percent of a list that may be skipped
    size: int = at_least(2, 256)  # pixels, height and width of the network's input
    # Pixels, to which the shorter side of a test frame is resized; None: 256 for a size of 224, as the authors do, else
    # size.
    short_side: int | None = at_least(2, None)
    sampling: str | None = None  # a name of `data.sampling.SAMPLINGS`; None: the data set's own
    flip: bool | None = None  # random horizontal flip, left/right labels swapped by name; None: the data set's own
    clips: int = at_least(1, 1)  # test clips per video
    crops: int = one_of((1, 3), 1)  # test crops per clip
    decoder: str = one_of(("pyav", "decord"), "pyav")  # of video files; decord: only for files on which it is exact
    workers: int = at_least(0, 2)  # loader processes
    # Where a run keeps its decoded videos, so that each is decoded once: none, ram (which loader processes share), disk
    # (which all runs share), or gpu, which then cuts the clips.
    cache: str = one_of(("none", "ram", "disk", "gpu"), "none")

    def options(self) -> dict:
        """What `data.catalog.load_samples` takes beside name, root and split."""
        given = {"checked": self.checked or None, "fold": self.fold, "val_share": self.val_share}
        given["lists"] = self.lists or None
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class ArrowConfig(Config):
    """What an Arrow of Time data set is made from; equal values give equal files."""

    train_clips: int = at_least(2, 1280)
    val_clips: int = at_least(2, 480)
    num_frames: int = at_least(48, 48)  # per video; a multiple of 48, so that 8, 12, 16 and 24 segments are equal
    size: int = at_least(16, 64)  # pixels, height and width
    difficulty: float = between(0, 1, 0.05)  # higher: less plain actions, distractors, camera shake, noise
    actions: str | tuple[str, ...] = "easy"  # a name of `data.actions.SETS`, or names of its `ACTIONS`
    seed: int = at_least(0, 0)

    def __post_init__(self):
        super().__post_init__()
        if self.train_clips % 2 or self.val_clips % 2:
            raise ValueError(f"clips come in pairs, got {self.train_clips} and {self.val_clips}")
        if self.num_frames % 48:
            raise ValueError(f"num_frames must be a multiple of 48, got {self.num_frames}")
        if self.size % 2:
            raise ValueError(f"size must be even, got {self.size}")


@dataclass(frozen=True)
class RecipeConfig(Config):
    """How a network is trained (appendix A.1; the defaults are its Something-Something recipe)."""

    epochs: int = at_least(1, 45)
    batch: int = at_least(1, 64)  # clips per step, over all processes
    lr: float = at_least(0, 0.02)  # at batch 64; scaled by batch / 64
    warmup: float = at_least(0, 10)  # epochs of linear warm-up, at most all of them
    momentum: float = field(default=0.9, metadata={"at least": 0, "below": 1})
    weight_decay: float = at_least(0, 5e-4)  # not on biases and batch norms
    clip_norm: float = above(0, 20.0)  # bound on the norm of all gradients together
    label_smoothing: float = between(0, 1, 0.0)
    test_epochs: int = at_least(0, 0)  # how many of the last epochs end with a test; 0: all of them
    frozen: str = one_of(("none", "backbone"), "none")  # backbone: `models.freeze_backbone`, as the authors' code does

    def __post_init__(self):
        super().__post_init__()
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must be at most the {self.epochs} epochs, got {self.warmup}")

    @property
    def first_tested(self) -> int:
        """The first epoch, from 1, that ends with a test; all after it do."""
        return max(1, self.epochs + 1 - (self.test_epochs or self.epochs))


@dataclass(frozen=True)
class ComputeConfig(Config):
    """How a run is computed.

    `precision`, `micro_batch` and `sync_batch_norm` change what is learned, as a batch norm sees one micro-batch. The
    rest changes no more than rounding. The number of processes is not here: see `train.train`.
    """

    device: str = one_of(("auto", "cpu", "cuda"), "auto")  # auto: a GPU if there is one
    precision: str = one_of(("auto", "fp32", "bf16", "fp16"), "auto")  # auto: fp32 on CPU; bf16, else fp16, on GPU
    # Clips that a device takes at once; None: batch / processes. Where a batch does not fit, its gradients are summed
    # over several micro-batches.
    micro_batch: int | None = at_least(1, None)
    sync_batch_norm: bool = False  # batch norms over the micro-batches of all processes; on GPUs only
    channels_last: bool = True  # weights and activations laid out with channels last
    compile: str = one_of(("none", "inductor", "eager"), "none")  # torch.compile's backend, for each block
    kernels: str = one_of(KERNELS, "auto")  # auto: on a GPU, the fastest of several equal ways (`kernels.choice`)
    # A training step as CUDA graphs, on one GPU; None: if there is one, and every batch has the same shape.
    graph: bool | None = False
    recompute: bool = False  # activation checkpointing: the backward pass computes a block's activations again
    threads: int = at_least(0, 0)  # CPU threads of each process; 0: PyTorch's choice
    save_minutes: float = at_least(0, 10.0)  # between snapshots within an epoch; 0: after every step
    # Where losses and accuracies are logged: none, tensorboard (in the run's folder), wandb, mlflow, or another tracker
    # that Accelerate knows.
    tracker: str = "none"


@dataclass(frozen=True)
class RunConfig(Config):
    """One training run as it is asked for; `training.run.resolve` answers what it leaves open."""

    name: str = "ctnet"  # in tables and figures, and of the run's folder
    seed: int = at_least(0, 0)
    start: str = ""  # a checkpoint whose weights training starts from (`checkpoints.start_from`); empty: none
    rows: tuple[tuple[str, str], ...] = ()  # (table, row) of the paper that the run is for; the record keeps them
    model: ModelConfig = ModelConfig()  # its number of classes is the data set's
    data: DataConfig = DataConfig()
    arrow: ArrowConfig = ArrowConfig()  # the built-in data set, which is written where `data.root` is empty
    recipe: RecipeConfig = RecipeConfig()
    compute: ComputeConfig = ComputeConfig()

    def __post_init__(self):
        super().__post_init__()
        check_file_name(self.name)
        if self.compute.graph and self.data.on_error == "skip":
            raise ValueError("graph does not go with on_error 'skip', which leaves clips out of a batch")
        if self.compute.sync_batch_norm and self.data.on_error == "skip":
            # A process that could read nothing has nothing to synchronise, and the others would wait for it.
            raise ValueError(
                "sync_batch_norm does not go with on_error 'skip': check the videos first, and leave out the bad"
            )
