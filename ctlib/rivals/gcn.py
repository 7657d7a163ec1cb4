"""NL-I3D + GCN (Wang and Gupta, ECCV 2018): graphs of the objects in a clip, on an I3D with non-local blocks.

Nodes are features of boxes around objects, which the network takes beside the clip, as it finds none itself. One graph
joins boxes that are alike, two others join boxes that overlap in the next and in the last frame. The published cost
includes a detector that is not described, and is not met. Two branches of graph layers whose outputs are summed,
without residual paths, are our reading.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_align

from ctlib.config import ModelConfig
from ctlib.kernels.layout import frames_of
from ctlib.models import VideoClassifier, make_classifier
from ctlib.rivals.nl_i3d import R50, I3DBackbone

LAYERS = 3  # of graph convolutions


class Relation(nn.Module):
    """A layer: products of messages of each graph, their sum, layer norm and ReLU; (N, t, K, C) each -> the same."""

    def __init__(self, channels: int, graphs: int):
        super().__init__()
        self.weights = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(graphs))
        self.norm = nn.LayerNorm(channels)

    def forward(self, *messages: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(sum(weight(part) for weight, part in zip(self.weights, messages, strict=True))))


class RegionGraphs(nn.Module):
    """The graph convolutions: one branch on the graph of alike boxes, one on those of neighbouring frames.

    Shape: nodes (N, t, K, C), boxes (N, t, K, 4) and whether they are there (N, t, K) -> (N, C), the mean over nodes.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query, self.key = (nn.Linear(channels, channels, bias=False) for _ in range(2))
        self.alike = nn.ModuleList(Relation(channels, 1) for _ in range(LAYERS))
        self.beside = nn.ModuleList(Relation(channels, 2) for _ in range(LAYERS))

    def forward(self, nodes: torch.Tensor, boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        every = nodes.flatten(1, 2)
        similar = self.query(every) @ self.key(every).mT  # (N, tK, tK)
        similar = similar.masked_fill(~there.flatten(1)[:, None], torch.finfo(similar.dtype).min).softmax(2)
        overlap = box_iou(boxes[:, :-1], boxes[:, 1:]).nan_to_num(0)  # (N, t - 1, K, K); NaN: of two empty boxes
        to_next, to_last = (graph / graph.sum(3, keepdim=True).clamp_min(1e-6) for graph in (overlap, overlap.mT))
        alike = beside = nodes
        for of_alike, of_beside in zip(self.alike, self.beside, strict=True):
            alike = of_alike((similar @ alike.flatten(1, 2)).view_as(alike)) * there[..., None]
            from_next = F.pad(to_next @ beside[:, 1:], (0, 0, 0, 0, 0, 1))
            from_last = F.pad(to_last @ beside[:, :-1], (0, 0, 0, 0, 1, 0))
            beside = of_beside(from_next, from_last) * there[..., None]
        return (alike + beside).sum((1, 2)) / there.sum((1, 2)).clamp_min(1)[:, None]


class RegionGraphClassifier(VideoClassifier):
    """Class scores of clips and of the boxes in them.

    Boxes are (left, top, right, bottom) in pixels of the clip, in each of the t frames of features. Rows of zeros are
    no boxes; there may be any number of them. No boxes at all, or boxes of another shape, are a ValueError.
    Shape: clips (N, 3, T, H, W) and boxes (N, t, K, 4) -> logits (N, num_classes); t is T / 2.
    """

    needs_boxes = True

    def __init__(self, backbone: nn.Module, config: ModelConfig):
        super().__init__(backbone, config)
        self.graphs = RegionGraphs(backbone.out_channels)
        self.num_features = 2 * backbone.out_channels
        self.fc = make_classifier(self.num_features, config.num_classes)

    def forward(self, clips: torch.Tensor, boxes: torch.Tensor | None = None) -> torch.Tensor:
        if boxes is None:
            raise ValueError("this network needs boxes of objects: call it with clips and boxes (N, t, K, 4) in pixels")
        features = self.forward_features(clips)
        count, channels, num_frames, height, width = features.shape
        if boxes.ndim != 4 or boxes.shape[:2] != (count, num_frames) or boxes.shape[3] != 4:
            raise ValueError(f"boxes must be ({count}, {num_frames}, K, 4) for these clips, got {tuple(boxes.shape)}")
        boxes, there = boxes.to(features.dtype), (boxes != 0).any(3)
        scale = [width / clips.shape[4], height / clips.shape[3]] * 2
        each = (boxes * boxes.new_tensor(scale)).flatten(0, 1)  # in positions of features
        frame = torch.arange(len(each), device=boxes.device, dtype=boxes.dtype)[:, None, None]
        regions = torch.cat([frame.expand(-1, each.shape[1], -1), each], 2).flatten(0, 1)
        pooled = roi_align(frames_of(features), regions, 7, sampling_ratio=2, aligned=True).amax((2, 3))
        nodes = pooled.view(count, num_frames, boxes.shape[2], channels) * there[..., None]
        seen = torch.cat([features.mean((2, 3, 4)), self.graphs(nodes, boxes, there)], 1)
        return self.fc(self.dropout(seen))


class RegionBackbone(I3DBackbone):
    """A dense NL-I3D with fewer channels at its end; `classifier` is what classifies its features."""

    classifier = RegionGraphClassifier

    def __init__(self, depths: tuple[int, ...], attending: tuple, width: int = 64, channels: int = 512):
        super().__init__(depths, attending, width, dense=True)
        self.body.reduce = nn.Conv3d(self.out_channels, channels, 1)
        self.out_channels = channels


BACKBONES = {
    "nl_i3d_gcn_r50": lambda: RegionBackbone(R50, ((), (1, 3), (1, 3, 5), ())),
    "nl_i3d_gcn_small": lambda: RegionBackbone((1, 2, 2, 1), ((), (1,), (1,), ()), width=16, channels=128),
}
