"""A trained network made ready for use: the same scores in less time (`optimize`, `compiled`), or a file (`export`).

For inference a network can be written with less: batch norms go into the convolutions before them, turns of the
channel grid into the order of weights, and Tensor Excitation into few passes over memory. What is left are 2D
convolutions and products, which every compiler and runtime knows.
"""

import copy
import json
import os
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ctlib.backbones import ClipModule, CTBlock
from ctlib.ct_module import CTModule, Parallel
from ctlib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from ctlib.excitation import TensorExcitation, TensorGate
from ctlib.kernels.layout import average, clips_of, clips_of_planes, frames_of, planes_of
from ctlib.models import VideoClassifier, use_channels_last
from ctlib.tensorize import TensorSeparableConv, rotate


def optimize(model: VideoClassifier) -> VideoClassifier:
    """A copy of a network for inference, on the same device: scores as in evaluation mode, up to rounding.

    It has no batch norms, no turns of the channel grid where a weight beside them can take them in, and where
    gradients are off Tensor Excitation writes over what it read. Networks without CT-Modules have their batch norms
    folded, and that is all. The copy is not for training, and its weights are no checkpoint.

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
        raise ValueError("the network is optimized already: it has no batch norms")
    optimized = copy.deepcopy(model).eval().requires_grad_(False)
    _fold_batch_norms(optimized)
    for parent in list(optimized.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, CTModule):
                setattr(parent, name, FoldedCTModule(child, parent.conv3 if isinstance(parent, CTBlock) else None))
    use_channels_last(optimized, model.channels_last)
    return optimized


def compiled(model: VideoClassifier) -> nn.Module:
    """`optimize`, then `torch.compile` with the weights frozen into the code; the first call compiles.

    That takes about a minute; the first change of N, of the size or of T costs one more compilation each. Needs a
    C++ compiler (on a GPU, Triton).

    Raises:
        TypeError: not a network of this package.
    """
    return Compiled(_optimized(model))


class Compiled(nn.Module):
    """A network behind `torch.compile`, for inference. Shapes as in `VideoClassifier`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = torch.compile(network)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        from torch._inductor import config  # here, as it takes seconds to import

        # As an option of torch.compile, freezing would come after the weights have been made inputs.
        with torch.no_grad(), config.patch(freezing=True):
            return self.network(clips)


def export(
    model: VideoClassifier, path: str | Path, size: int, num_frames: int | None = None, classes: Sequence[str] = ()
) -> None:
    """Write a network as an ONNX file, optimized: "clips" (N, 3, T, size, size) in, "scores" (N, num_classes) out.

    N is free, T and the size are fixed. Clips are what the network was trained on: RGB in 0..1, normalised with
    ImageNet's mean and deviation (`data.transforms`); the file's metadata says so. The file is written whole or not
    at all.

    Args:
        model: on any device; it stays as it is.
        path: of the file, which is replaced if there.
        size: pixels, height and width.
        num_frames: T; that of the network's configuration if not given.
        classes: names in label order, kept in the metadata as JSON.

    Raises:
        TypeError: not a network of this package.
        ImportError: the packages onnx and onnxscript are not there.
        FileNotFoundError: the folder to write to is not there.
        ValueError: frames that are too small for the backbone, no frame, or another number of classes.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ImportError("export needs the packages onnx and onnxscript: pip install 'ctlib[onnx]'")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")
    network = copy.deepcopy(_optimized(model)).cpu().float()
    num_frames = network.config.num_frames if num_frames is None else num_frames
    if min(num_frames, size) < 1:
        raise ValueError(f"num_frames and size must be at least 1, got {num_frames} and {size}")
    if classes and len(classes) != network.fc.out_features:
        raise ValueError(f"the network has {network.fc.out_features} classes, got the names of {len(classes)}")
    clips = torch.zeros(2, 3, num_frames, size, size)  # two: one would be taken for a fixed number
    with torch.no_grad():
        network(clips[:1])  # says what is wrong with a shape better than the exporter
        program = torch.onnx.export(
            network,
            (clips,),
            dynamo=True,
            verbose=False,
            input_names=["clips"],
            output_names=["scores"],
            dynamic_shapes={"clips": {0: torch.export.Dim("batch")}},
        )
    program.model.metadata_props.update(
        {
            "clips": f"(N, 3, {num_frames}, {size}, {size}) float32, RGB, N free",
            "mean": json.dumps(IMAGENET_MEAN),
            "std": json.dumps(IMAGENET_STD),
            "scores": f"(N, {network.fc.out_features}), before the softmax",
            "classes": json.dumps(list(classes)),
        }
    )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        program.save(Path(folder) / path.name, external_data=False)
        os.replace(Path(folder) / path.name, path)


def _is_optimized(model: nn.Module) -> bool:
    return not any(isinstance(module, _BatchNorm) for module in model.modules())


def _optimized(model: VideoClassifier) -> VideoClassifier:
    return model if isinstance(model, VideoClassifier) and _is_optimized(model) else optimize(model)


def _fold_batch_norms(model: nn.Module) -> None:
    """Put each batch norm into the convolution before it, which stands before it in the same module."""
    for parent in model.modules():
        conv = None
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                norm = child.running_mean, child.running_var, child.eps, child.weight, child.bias
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *norm)
                setattr(parent, name, nn.Identity())
            conv = child


class FoldedCTModule(nn.Module):
    """A CT-Module for inference, its batch norms folded already.

    To turn the channel grid after a point-wise convolution is to give that convolution's outputs in another
    order; to turn it at the end is to take the next convolution's inputs in another order.

    Args:
        module: what it stands for.
        follower: the 1x1 convolution that takes the output and is changed for it; if not given, the last turn stays.

    Shape:
        (N, C, T, H, W) -> (N, C_out, T, H, W)
    """

    def __init__(self, module: CTModule, follower: nn.Conv2d | None = None):
        super().__init__()
        self.steps = nn.ModuleList()
        for k, (sub_operation, size) in enumerate(zip(module.sub_operations, module.dims, strict=True)):
            excited = type(sub_operation) is Parallel and isinstance(sub_operation.excitation, TensorExcitation)
            self.steps.append(FoldedSubOperation(sub_operation) if excited else ClipModule(sub_operation))
            order = rotate(torch.arange(module.out_channels)[None], size)[0]
            if k < len(module.pointwise):
                conv = _as_conv2d(module.pointwise[k][0])
                conv.weight, conv.bias = _parameter(conv.weight[order]), _parameter(conv.bias[order])
                self.steps.append(OnFrames(conv, nn.ReLU(inplace=True)))
            elif k == len(module.dims) - 1 and follower is not None:
                follower.weight = _parameter(follower.weight[:, order.argsort()])
            else:
                self.steps.append(Turn(size))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        frames, num_frames = frames_of(clips), clips.shape[2]
        for step in self.steps:
            frames = step(frames, num_frames)
        return clips_of(frames, num_frames)


class OnFrames(nn.Sequential):
    """Layers that see frames, told T like those that see clips: (N * T, C, H, W) and T -> (N * T, C', H, W)."""

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        return super().forward(frames)


class Turn(nn.Module):
    """`rotate` as a layer, where no weight could take it in. (N * T, C, H, W) and T -> the same."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        return rotate(frames, self.size)


class FoldedSubOperation(nn.Module):
    """Eq. (6), (7) and (8) for inference: spatial and temporal convolution, excited and added.

    The gates are those of `Parallel` with Tensor Excitation; the features are changed in place
    where no gradient can be asked for.

    Shape:
        (N * T, C, H, W) and T -> (N * T, C_out, H, W)
    """

    def __init__(self, part: Parallel):
        super().__init__()
        self.spatial = nn.Sequential(_as_conv2d(part.spatial[0]), nn.ReLU(inplace=True))
        self.temporal = nn.Sequential(_as_conv2d(part.temporal[0]), nn.ReLU(inplace=True))
        gates = part.excitation
        self.spatial_gate, self.temporal_gate, self.channel_gate = map(
            _folded_gate, (gates.spatial, gates.temporal, gates.channel)
        )

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        spatial = clips_of(self.spatial(frames), num_frames)
        temporal = clips_of_planes(self.temporal(planes_of(clips_of(frames, num_frames))), frames.shape[2:])
        over_time = self.spatial_gate(average(spatial, (2,)).squeeze(2)).unsqueeze(2)
        over_map = self.temporal_gate(average(temporal, (3, 4)).squeeze(4)).unsqueeze(4)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            both = spatial * over_time + temporal * over_map
            return frames_of(both * self._channel_gate(both))
        both = spatial.mul_(over_time).addcmul_(temporal, over_map)
        return frames_of(both.mul_(self._channel_gate(both)))

    def _channel_gate(self, both: torch.Tensor) -> torch.Tensor:
        """(N, C, T, 1, 1): a gate for each frame."""
        return self.channel_gate(average(both, (3, 4)).squeeze(4)).unsqueeze(4)


def _folded_gate(gate: TensorGate) -> nn.Sequential:
    """A gate on pooled features of four axes: (N, C, H, W) for the spatial one, (N, C, T, 1) for the others."""
    return nn.Sequential(_as_conv2d(gate.reduce), nn.ReLU(inplace=True), _as_conv2d(gate.expand), nn.Sigmoid())


def _as_conv2d(conv: TensorSeparableConv) -> nn.Conv2d:
    """The same convolution on frames (N * T, C, H, W), or on planes (N, C, T, H * W) if it is temporal."""
    t, h, w = conv.kernel_size
    weight = conv.weight.squeeze(2) if t == 1 else conv.weight.squeeze(4)
    padding = (h // 2, w // 2) if t == 1 else (t // 2, 0)
    made = nn.Conv2d(
        conv.channels,
        conv.out_channels,
        weight.shape[2:],
        padding=padding,
        groups=conv.groups,
        bias=False,
        device="meta",  # draws no weights, which are replaced
    )
    made.weight, made.bias = _parameter(weight), None if conv.bias is None else _parameter(conv.bias)
    return made


def _parameter(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)
