"""A trained network made ready for use: the same scores in less time (`optimize`, `compiled`), or a file (`export`).

For inference, batch norms go into the convolutions before them and channel shuffles into the order of weights.
Tensor Excitation passes over memory fewer times. 2D convolutions and products remain, which every runtime knows.
"""

import copy
import json
import os
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ctlib import checkpoints, files
from ctlib.backbones import CTBlock
from ctlib.checkpoints import Checkpoint
from ctlib.ct_module import CTModule, Parallel
from ctlib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from ctlib.data.views import complete
from ctlib.excitation import TensorExcitation
from ctlib.kernels import choice, folded
from ctlib.kernels.graph import InferenceGraph
from ctlib.kernels.layout import use_channels_last
from ctlib.models import VideoClassifier, check_finite, refuse_boxes
from ctlib.tensorize import TensorSeparableConv, channel_shuffle


def optimize(model: VideoClassifier) -> VideoClassifier:
    """A copy of a network for inference, on the same device: scores as in evaluation mode, up to rounding.

    The copy cannot be trained, and its weights are not a checkpoint. Networks without CT-Modules only lose batch
    norms, those that follow a convolution in the same module.

    Raises:
        TypeError: not a network of this package.
        ValueError: it is optimized already.
    """
    if not isinstance(model, VideoClassifier):
        raise TypeError(
            f"needed a network of ctlib, a VideoClassifier, got {type(model).__name__}: unwrap one that is "
            "compiled or distributed"
        )
    if _is_optimized(model):
        raise ValueError("the network is optimized already")
    optimized = copy.deepcopy(model).eval().requires_grad_(False)
    folded.fold_batch_norms(optimized)
    for parent in list(optimized.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, CTModule):
                setattr(parent, name, _folded(child, parent.conv3 if isinstance(parent, CTBlock) else None))
    use_channels_last(optimized, model.memory_format == torch.channels_last)
    optimized.optimized = True
    return optimized


def _folded(module: CTModule, follower: nn.Conv2d | None) -> nn.Sequential:
    """A CT-Module for inference, its batch norms folded already.

    A point-wise convolution absorbs the channel shuffle after it by the order of its outputs. `follower`, the 1x1
    convolution after the module, absorbs the last one by the order of its inputs.
    """
    steps = []
    for k, (sub_operation, size) in enumerate(zip(module.sub_operations, module.dims, strict=True)):
        excited = type(sub_operation) is Parallel and isinstance(sub_operation.excitation, TensorExcitation)
        steps.append(_folded_sub_operation(sub_operation) if excited else sub_operation)
        order = channel_shuffle(torch.arange(module.out_channels)[None], size)[0]
        if k < len(module.pointwise):
            conv = _as_conv2d(module.pointwise[k][0])
            conv.weight, conv.bias = folded.frozen(conv.weight[order]), folded.frozen(conv.bias[order])
            steps.append(folded.OnFrames(conv, nn.ReLU(inplace=True)))
        elif size in (1, module.out_channels):
            continue  # the shuffle keeps the order
        elif k == len(module.dims) - 1 and follower is not None:
            follower.weight = folded.frozen(follower.weight[:, order.argsort()])
        else:
            steps.append(folded.ChannelShuffle(module.out_channels // size))
    return nn.Sequential(*steps)


def _folded_sub_operation(part: Parallel) -> folded.FoldedSubOperation:
    gates = part.excitation.spatial, part.excitation.temporal, part.excitation.channel
    pairs = [(_as_conv2d(gate.reduce), _as_conv2d(gate.expand)) for gate in gates]
    return folded.FoldedSubOperation(_as_conv2d(part.spatial[0]), _as_conv2d(part.temporal[0]), pairs)


def _as_conv2d(conv: TensorSeparableConv) -> nn.Conv2d:
    return folded.as_conv2d(conv.weight, conv.bias, conv.groups)


def _is_optimized(model: nn.Module) -> bool:
    return getattr(model, "optimized", False)


def _optimized(model: VideoClassifier) -> VideoClassifier:
    return model if isinstance(model, VideoClassifier) and _is_optimized(model) else optimize(model)


def compiled(model: VideoClassifier) -> nn.Module:
    """`optimize`, then `torch.compile` with constant weights; the first call compiles.

    That takes about a minute. The first change of N, of the size or of T costs one more compilation each. On a GPU
    every change does. It needs a C++ compiler (on a GPU, Triton).

    On a GPU, batches of at most `Compiled.SMALL` clips are CUDA graphs instead. They need no compiler, and a new shape
    costs seconds. A graph has one memory for its input: one thread and one stream may call it at a time.

    Raises:
        TypeError: not a network of this package.
        ValueError: a network that needs boxes beside the clips.
    """
    refuse_boxes(model, "compilation")
    return Compiled(_optimized(model))


class Compiled(nn.Module):
    """A network behind `torch.compile`, or small batches on a GPU as graphs. Shapes as in `VideoClassifier`."""

    SMALL = 8  # clips of a batch that is a graph
    MOST = 8  # graphs that are kept, as each has memory of its own; the oldest goes

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.module = torch.compile(network)
        self.graphs: dict[tuple, InferenceGraph] = {}  # by shape and type of clips
        self.met = set()  # shapes for which ways of operations were chosen; a compiler takes what was chosen before

    def _apply(self, *arguments, **options):
        """Of `to`, `half` and the like: graphs read the weights where they lay."""
        self.graphs.clear()
        self.met.clear()
        return super()._apply(*arguments, **options)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if clips.is_cuda and len(clips) <= self.SMALL:
            return self._graph_of(clips)(clips)
        from torch._inductor import config  # here, because it takes seconds to import

        # Public options of torch.compile apply too late for `freezing`: weights have become inputs by then.
        with torch.no_grad(), config.patch(freezing=True):
            if choice.applies(clips) and clips.shape not in self.met:
                for _ in range(2):  # at the second call they are
                    self.network(clips)
                self.met.add(clips.shape)
            return self.module(clips)

    def _graph_of(self, clips: torch.Tensor) -> InferenceGraph:
        precision = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else clips.dtype
        key = clips.shape, clips.dtype, precision
        if key not in self.graphs:
            if len(self.graphs) == self.MOST:
                del self.graphs[next(iter(self.graphs))]
            self.graphs[key] = InferenceGraph(choice.in_graphs()(self.network))
        return self.graphs[key]


def export(
    model: VideoClassifier | Checkpoint | str | os.PathLike,
    path: str | Path,
    size: int | None = None,
    num_frames: int | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Write a network as an ONNX file, optimized: "clips" (N, 3, T, size, size) in, "scores" (N, num_classes) out.

    N is free, T and the size are fixed. Clips are RGB in 0..1, normalised with a mean and standard deviation that the
    file's metadata has, as "mean" and "std". Of a checkpoint that remembers its view, "view" has all of it, as JSON:
    `data.views.View.from_dict(json.loads(...))` reads a video as the network expects it. The file is written whole or
    not at all.

    Without a view, ImageNet's mean and standard deviation are written. Of a checkpoint it warns then.

    Args:
        model: on any device; or a checkpoint, or what `checkpoints.load` takes, which know the rest. It is not changed.
        path: of the file; an existing one is replaced.
        size: pixels, height and width; a checkpoint's own if not given.
        num_frames: T; the checkpoint's or network's own if not given.
        classes: names in label order, kept in the metadata as JSON; a checkpoint's own if not given.

    Raises:
        TypeError: not a network of this package.
        ImportError: the packages onnx and onnxscript are not installed.
        FileNotFoundError: the folder to write to does not exist, or the checkpoint.
        IsADirectoryError: `path` is a folder.
        ValueError: no size, frames that are too small for the backbone, no frame, another number of classes, or scores
            that are not finite.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ImportError("export needs the packages onnx and onnxscript: pip install 'ctlib[onnx]'")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file to write, such as {path / 'model.onnx'}")
    if isinstance(model, str | os.PathLike):
        model = checkpoints.load(model)
    view = None
    unknown_view = isinstance(model, Checkpoint) and model.view is None
    if isinstance(model, Checkpoint):
        classes = classes or model.classes
        if model.view is not None:
            view = complete(model.view, "the checkpoint", size=size, num_frames=num_frames)
            size, num_frames = view.size, view.num_frames
        model = model.model
    if size is None:
        raise ValueError("nothing says at which size the network was trained: give size, in pixels")
    refuse_boxes(model, "export")
    network = copy.deepcopy(_optimized(model)).cpu().float()
    num_frames = network.config.num_frames if num_frames is None else num_frames
    if min(num_frames, size) < 1:
        raise ValueError(f"num_frames and size must be at least 1, got {num_frames} and {size}")
    if classes and len(classes) != network.num_classes:
        raise ValueError(f"the network has {network.num_classes} classes, got the names of {len(classes)}")
    if unknown_view:
        warnings.warn("the checkpoint says no mean and std of its clips: ImageNet's are assumed", stacklevel=2)
    clips = torch.zeros(2, 3, num_frames, size, size)  # two, because one would become a fixed number
    with torch.no_grad():
        # The network's errors about shapes are clearer than the exporter's.
        check_finite(network(clips[:1]), lambda _: "a grey clip")
        program = _program(network, clips)
    program.model.metadata_props.update(
        {
            "clips": f"(N, 3, {num_frames}, {size}, {size}) float32, RGB, N free",
            "mean": json.dumps(IMAGENET_MEAN if view is None else view.mean),
            "std": json.dumps(IMAGENET_STD if view is None else view.std),
            "scores": f"(N, {network.num_classes or network.num_features}), before the softmax",
            "classes": json.dumps(list(classes)),
            **({} if view is None else {"view": json.dumps(view.to_dict())}),
        }
    )
    files.write_atomically(path, lambda partial: program.save(partial, external_data=False))


def _program(network: VideoClassifier, clips: torch.Tensor) -> torch.onnx.ONNXProgram:
    names = {"input_names": ["clips"], "output_names": ["scores"]}
    free = {"clips": {0: torch.export.Dim("batch")}}
    try:
        return torch.onnx.export(network, (clips,), dynamo=True, verbose=False, dynamic_shapes=free, **names)
    except torch.onnx.OnnxExporterError as error:
        clip = " x ".join(map(str, clips.shape[2:]))
        raise ValueError(
            f"{network.config.backbone!r} cannot be exported for clips of {clip} (T x H x W): try T = 8, 16 or 32"
        ) from error
