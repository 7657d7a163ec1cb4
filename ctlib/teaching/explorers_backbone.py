"""What moves in the teaching notebook 4: a network's blocks, replaced or not, and what this costs.

Pure functions to a `View`, as in `explorers`, whose shell shows them.
"""

import torch
from torch import nn

from ctlib.backbones import CTBlock
from ctlib.config import ModelConfig, check_choice
from ctlib.cost import eval_with_hooks
from ctlib.ct_module import CTModule
from ctlib.excitation import TensorExcitation
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.teaching import anatomy, figures_networks
from ctlib.teaching.explorers import View

# What may stand in a replaced block, in the words of section 3.3: Figure 2(b) and 2(a), and the modules of Table 2a.
MODULES: dict[str, dict] = {
    "CT-Block": {},
    "simple CT-Block": {"pointwise": False, "excitation": "none"},
    "C3D-Module": {"module": "c3d"},
    "R(2+1)D-Module": {"module": "r2plus1d"},
    "CSN-Module": {"module": "csn"},
}
# Which blocks of a stage are replaced; the first, which changes the shape, never is.
CHOICES = {"none": slice(0), "every other": slice(1, None, 2), "all but the first": slice(1, None)}


def block_flow(block: nn.Module, features: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """What happens in a ResBlock or a CT-Block, as the block itself does it: Figure 2(a) and (b).

    Args:
        block: torchvision's `Bottleneck` with no downsampling, or a `CTBlock` with a `CTModule`; in any mode.
        features: (1, 4C, T, H, W).

    Returns:
        (what is done, the shape (C, T, H, W) that comes out), in order.
    """
    num_frames, steps = features.shape[2], [("features X", tuple(features.shape[1:]))]
    told = {block.bn1: "1x1 convolution, BN, ReLU", block.bn3: "1x1 convolution, BN", block: "sum with X, ReLU"}
    if isinstance(block, CTBlock) and isinstance(block.conv2, CTModule):
        module = block.conv2
        for number, (part, size) in enumerate(zip(module.sub_operations, module.dims, strict=True), start=1):
            excited = " + TE" if isinstance(part.excitation, TensorExcitation) else ""
            told[part] = f"sub-operation {number}: TSConv, $C_{number}$ = {size}{excited}"
        told |= dict.fromkeys(module.pointwise, "point-wise convolution, BN, ReLU")
    else:
        told[block.bn2] = "3x3 convolution, BN, ReLU"

    def note(layer, _inputs, output):
        clip = output[0] if output.ndim == 5 else clips_of(output, num_frames)[0]
        steps.append((told[layer], tuple(clip.shape)))

    with torch.no_grad(), eval_with_hooks(block, dict.fromkeys(told, note)):
        block(frames_of(features), *([num_frames] if isinstance(block, CTBlock) else []))
    return steps


def config_of(
    backbone: str, module: str, stages: tuple[str, str, str, str], num_frames: int = 8, num_classes: int = 174
) -> ModelConfig:
    """The network with blocks of some stages replaced.

    Args:
        backbone: a ResNet of `backbones.BACKBONES`.
        module: a name of `MODULES`.
        stages: for each of stages 2 to 5 a name of `CHOICES`.
        num_frames: T.
        num_classes: of the classifier.

    Raises:
        ValueError: an unknown backbone, module or choice.
    """
    check_choice("module", module, MODULES)
    for choice in stages:
        check_choice("choice", choice, CHOICES)
    depths = anatomy.depths_of(backbone)
    placed = tuple(tuple(range(depth)[CHOICES[choice]]) for depth, choice in zip(depths, stages, strict=True))
    if not any(placed):
        return ModelConfig(num_classes, num_frames, backbone, blocks="none")
    return ModelConfig(num_classes, num_frames, backbone, placed, **MODULES[module])


def network(
    backbone: str, module: str, stages: tuple[str, str, str, str], num_frames: int = 8, size: int = 256,
    num_classes: int = 174,
) -> View:  # fmt: skip
    """A network with blocks of some stages replaced: its parts, their shapes and costs, beside the alternatives.

    Arguments as in `config_of`; `size` is the clip's height and width in pixels.
    """
    config = config_of(backbone, module, stages, num_frames, num_classes)
    found = anatomy.parts(config, size)
    plain = anatomy.parts(ModelConfig(num_classes, num_frames, backbone, "none"), size)
    count, blocks = sum(part.replaced for part in found), len(found) - 2
    dense = plain
    if count:
        dense = anatomy.parts(ModelConfig(num_classes, num_frames, backbone, config.blocks, "c3d"), size)
    total, without, whole = map(anatomy.gflops, (found, plain, dense))
    params = sum(part.params for part in found)
    clip = f"{num_frames} x {size} x {size}"
    name = module if count else "no block"
    title = f"{backbone}: {count} of {blocks} blocks replaced, {total:.1f} GFLOPs"
    figure = figures_networks.network(found, plain, module, title)
    numbers = {
        "blocks replaced": f"{count} of {blocks}",
        f"GFLOPs, one view of {clip}": f"{total:.2f}",
        "GFLOPs, no block replaced (TSN)": f"{without:.2f}",
        "GFLOPs, dense 3x3x3 in the same blocks (C3D)": f"{whole:.2f}",
        "share of TSN": f"{100 * total / without:.1f} %",
        "share of the dense 3D network": f"{100 * total / whole:.1f} %",
        "parameters": f"{params:,}",
        "weights of the 2D backbone that stay": f"{anatomy.kept(found):.1f} %",
    }
    alt = (
        f"{backbone} from stem to head as boxes, {count} of {blocks} blocks replaced ({name}), below each its GFLOPs: "
        f"{total:.1f} for {clip}, {without:.1f} with no block replaced."
    )
    return View(figure, numbers, alt)
