"""Saliency Tubes: what they say, how they leave the network, and what they refuse."""

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import nn

from ctlib import checkpoints, saliency
from ctlib.config import ModelConfig
from ctlib.data import encoding, transforms, video
from ctlib.data.views import View
from ctlib.deploy import Compiled, optimize
from ctlib.kernels import BATCH_NORMS
from ctlib.kernels.layout import use_channels_last
from ctlib.models import build_model

NETWORKS = {
    "TSN": {"blocks": "none"},
    "C3D": {"module": "c3d"},
    "R(2+1)D": {"module": "r2plus1d"},
    "CSN": {"module": "csn"},
    "CT-Net": {},
}
CLASSES = ("pull", "push", "lift", "drop", "turn")


def network(**parts):
    """With statistics and weights that are no longer as they were set."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(num_classes=5, num_frames=4, backbone="quickstart", **parts))
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(model.fc.weight, std=0.3)
    nn.init.normal_(model.fc.bias)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def clips():
    return torch.randn(3, 3, 4, 64, 96, generator=torch.Generator().manual_seed(1))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_raw_map_s_mean_is_the_score_minus_the_bias_before_and_after_resizing(name, clips):
    model = network(**NETWORKS[name])
    for target in (0, [4, 1, 2], None):
        maps, scores = saliency.raw_maps(model, clips, target)
        assert maps.shape == (3, 4, 2, 3) and maps.dtype == torch.float32
        with torch.no_grad():
            torch.testing.assert_close(scores, model(clips))
        labels = scores.argmax(1) if target is None else torch.tensor(target).expand(3)
        expected = scores.gather(1, labels[:, None])[:, 0] - model.fc.bias.detach()[labels]
        for shown in (maps, saliency.resized(maps, clips.shape[2:])):
            torch.testing.assert_close(shown.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-5)


def test_tubes_are_the_positive_part_over_the_clip_s_greatest_value(model, clips):
    tubes, scores = saliency.saliency_tubes(model, clips, 2)
    maps, same = saliency.raw_maps(model, clips, 2)
    assert tubes.shape == (3, 4, 64, 96) and scores.shape == (3, 5) and torch.equal(scores, same)
    positive = saliency.resized(maps, (4, 64, 96)).clamp_min(0)
    torch.testing.assert_close(tubes, positive / positive.amax((1, 2, 3), keepdim=True))
    by_frame, _ = saliency.saliency_tubes(model, clips, 2, per="frame")
    assert set(by_frame.amax((2, 3)).unique().tolist()) <= {0.0, 1.0}
    cut, _ = saliency.saliency_tubes(model, clips, 2, threshold=0.5)
    assert torch.equal(cut, torch.where(tubes >= 0.5, tubes, 0)) and 0 < (cut > 0).sum() < (tubes > 0).sum()


def test_a_clip_without_evidence_is_zero_and_does_not_affect_others():
    maps = torch.stack([-torch.ones(2, 2, 2), torch.tensor([[[1.0, 2], [0, -3]], [[4, 0], [0, 0]]])])
    first, second = saliency.normalised(maps)
    assert (first == 0).all()
    assert second.tolist() == [[[0.25, 0.5], [0, 0]], [[1, 0], [0, 0]]]


def test_resizing_keeps_the_mean_of_maps_that_divide_the_clip():
    maps = torch.randn(2, 4, 4, 2, dtype=torch.float64)
    wide = saliency.resized(maps, (8, 128, 64))
    torch.testing.assert_close(wide.mean((1, 2, 3)), maps.mean((1, 2, 3)))
    assert wide[0, 0, 0, 0] == maps[0, 0, 0, 0] and wide[0, -1, -1, -1] == maps[0, -1, -1, -1]


def test_receptive_fields_are_centred_where_placement_says():
    model = network(blocks="none")
    clips = torch.rand(1, 3, 1, 256, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for row, column in ((3, 4), (4, 3)):
        (gradient,) = torch.autograd.grad(model.forward_features(clips)[0, :, 0, row, column].sum(), clips)
        seen = gradient[0, :, 0].square().sum(0)
        centre = [(seen.sum(1 - axis) * torch.arange(256)).sum() / seen.sum() for axis in (0, 1)]
        expected = [saliency.stride_of(model) * place for place in (row, column)]
        assert all(abs(at - to) < 6 for at, to in zip(centre, expected, strict=True)), (centre, expected)
        maps = torch.zeros(1, 1, 8, 8)
        maps[0, 0, row, column] = 1
        shown = saliency.resized(maps, (1, 256, 256), 32)[0, 0]
        assert shown.argmax() == 256 * expected[0] + expected[1]
        even = saliency.resized(maps, (1, 256, 256))[0, 0]
        assert shown[:-16, :-16].sum() == pytest.approx(even[16:, 16:].sum().item(), rel=1e-3)


def test_maps_centred_on_receptive_fields_reach_the_edges(model, clips):
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    shown = saliency.resized(maps, (1, 48, 64), 32)[0, 0]
    assert (shown[32:, 32:] == 4).all() and shown[0, 0] == 1 and shown[0, 16] == 1.5 and shown.shape == (48, 64)
    tubes, _ = saliency.saliency_tubes(model, clips, 1, placement="seen")
    wide = saliency.resized(saliency.raw_maps(model, clips, 1)[0], (4, 64, 96), 32)
    assert torch.equal(tubes, saliency.normalised(wide))
    without_last = build_model(ModelConfig(backbone="laptop", blocks="none"))
    assert saliency.stride_of(without_last) == 16
    assert saliency.stride_of(model) == 32 and saliency.stride_of(nn.ModuleDict({"backbone": nn.Identity()})) is None
    with pytest.raises(ValueError, match="2 x 2 positions 32 pixels apart do not fit"):
        saliency.resized(maps, (1, 32, 64), 32)


def test_placement_does_not_change_time():
    maps = torch.rand(1, 2, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 2, 2, 2)
    even, seen = (saliency.resized(maps, (4, 64, 64), stride) for stride in (None, 32))
    torch.testing.assert_close(even, seen)


def test_a_clip_that_is_not_finite_is_named(model, clips):
    broken = clips.clone()
    broken[1, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="scores are not finite for 1 of 3 clips or videos, the first of them clip 1"):
        saliency.saliency_tubes(model, broken)


def test_activations_of_zero_give_tubes_of_zero(clips):
    silent = network()
    silent.backbone.stages[-1][-1].register_forward_hook(lambda *at: at[-1] * 0)
    tubes, scores = saliency.saliency_tubes(silent, clips[:, :, :3], 1)
    assert (tubes == 0).all() and torch.allclose(scores, silent.fc.bias.expand_as(scores))


def test_indices_of_numpy_are_classes_too(model, clips):
    theirs = saliency.saliency_tubes(model, clips, np.int64(2))[0]
    torch.testing.assert_close(theirs, saliency.saliency_tubes(model, clips, 2)[0])


def test_what_differs_in_a_frame_shows_in_that_frame():
    """TSN sees each frame by itself; folding N and T in another order would show the map elsewhere."""
    model = network(blocks="none")
    clips = torch.zeros(2, 3, 4, 64, 64)
    other = clips.clone()
    other[1, :, 2] = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    before, after = (saliency.raw_maps(model, given, 3)[0] for given in (clips, other))
    changed = (before != after).flatten(2).any(2)
    assert changed.nonzero().tolist() == [[1, 2]]


def test_a_class_by_name_by_index_and_one_for_each_clip(model, clips):
    by_name = saliency.raw_maps(model, clips, "lift", CLASSES)[0]
    assert torch.equal(by_name, saliency.raw_maps(model, clips, 2)[0])
    mixed = saliency.raw_maps(model, clips, ["turn", 0, "push"], CLASSES)[0]
    assert torch.equal(mixed, saliency.raw_maps(model, clips, torch.tensor([4, 0, 1]))[0])
    checkpoint = checkpoints.Checkpoint(model, CLASSES, {})
    assert torch.equal(
        saliency.saliency_tubes(checkpoint, clips, "lift")[0], saliency.saliency_tubes(model, clips, 2)[0]
    )


def test_the_network_is_left_as_it_was(clips):
    model = network().train()
    model.backbone.layer1.eval()  # as a part that is not trained is kept
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    tubes, scores = saliency.saliency_tubes(model, clips.clone().requires_grad_())
    assert not tubes.requires_grad and not scores.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert hooks(model) == 0 and all(parameter.grad is None for parameter in model.parameters())


def test_after_an_error_no_hook_is_left_and_the_modes_are_back(clips, monkeypatch):
    model = network().train()
    with pytest.raises(ValueError, match="from 0 to 4, got 99"):  # the forward pass is done by then
        saliency.raw_maps(model, clips, 99)
    assert hooks(model) == 0 and model.training and model.backbone.layer1.training
    monkeypatch.setattr(model.backbone.layer4[1], "forward", None)
    with pytest.raises(TypeError, match="not callable"):
        saliency.raw_maps(model, clips)
    assert hooks(model) == 0 and model.training and model.backbone.layer1.training


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_in_memory_changes_nothing(model, clips, channels_last):
    other = network()
    use_channels_last(other, channels_last)
    given = clips.contiguous(memory_format=torch.channels_last_3d) if channels_last else clips
    torch.testing.assert_close(saliency.saliency_tubes(other, given, 1)[0], saliency.saliency_tubes(model, clips, 1)[0])


@pytest.mark.slow
def test_a_compiled_network_is_explained_by_the_network_inside(model, clips):
    compiled = torch.compile(network(), backend="eager")
    with torch.no_grad():
        compiled(clips)
    fired = []
    handle = compiled._orig_mod.backbone.register_forward_hook(lambda *_: fired.append(1))
    with torch.no_grad():
        compiled(clips)
    handle.remove()
    assert fired == []  # so hooks on a compiled network would not work
    torch.testing.assert_close(
        saliency.saliency_tubes(compiled, clips, 1)[0], saliency.saliency_tubes(model, clips, 1)[0]
    )
    ready = Compiled(optimize(network()))
    torch.testing.assert_close(saliency.saliency_tubes(ready, clips, 1)[0], saliency.saliency_tubes(model, clips, 1)[0])
    in_place = network()
    in_place.compile(backend="eager")
    with torch.no_grad():
        in_place(clips)
    torch.testing.assert_close(
        saliency.saliency_tubes(in_place, clips, 1)[0], saliency.saliency_tubes(model, clips, 1)[0]
    )


@pytest.mark.slow
def test_a_backbone_that_is_compiled_alone_is_explained_too(model, clips):
    other = network()
    other.backbone.compile(backend="eager")
    with torch.no_grad():
        other(clips)
    torch.testing.assert_close(saliency.raw_maps(other, clips, 1)[0], saliency.raw_maps(model, clips, 1)[0])


def test_a_backbone_called_without_hooks_is_an_error(clips):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            inner = network()
            self.backbone, self.fc = inner.backbone, inner.fc

        def forward(self, clips):
            return self.fc(self.backbone.forward(clips[:, :, 0], 1).mean((2, 3)))  # not called as a module is

    model = Around()
    with pytest.raises(RuntimeError, match="the backbone's output was not recorded"):
        saliency.raw_maps(model, clips)
    assert hooks(model) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_it_is_the_same(model, clips, dtype):
    on_gpu = network().to("cuda", dtype)
    tubes, _ = saliency.saliency_tubes(on_gpu, clips.to("cuda", dtype), 1)
    assert tubes.device.type == "cuda" and tubes.dtype == torch.float32
    assert (tubes.cpu() - saliency.saliency_tubes(model, clips, 1)[0]).abs().max() < 0.05


def test_autocast_changes_little(model, clips):
    with torch.autocast("cpu", torch.bfloat16):
        tubes, _ = saliency.saliency_tubes(model, clips, 1)
    assert (tubes - saliency.saliency_tubes(model, clips, 1)[0]).abs().max() < 0.1


def test_captum_s_grad_cam_is_the_same_map(model, clips):
    """Of a head that is linear on averages Grad-CAM's weights are the classifier's, over the number of places."""

    theirs = LayerGradCam(model, model.backbone).attribute(clips, target=3)[:, 0].unflatten(0, clips.shape[0:3:2])
    ours, _ = saliency.raw_maps(model, clips, 3)
    torch.testing.assert_close(theirs * theirs[0].numel(), ours, rtol=1e-4, atol=1e-4)
    wide = LayerAttribution.interpolate(theirs[:, None], (4, 64, 96), interpolate_mode="trilinear")
    assert wide.shape[2:] == (4, 64, 96)
    scaled = wide[:, 0].detach().clamp_min(0)
    scaled = scaled / scaled.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)  # nothing may speak for the class
    torch.testing.assert_close(scaled, saliency.saliency_tubes(model, clips, 3)[0], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 255, (12, 48, 80, 3), dtype=np.uint8)
    for count in (12, 2):
        encoding.write_video(folder / f"{count}.mp4", frames[:count], fps=12)
    return folder


def test_a_video_file_is_read_as_in_testing_and_explained(model, videos):
    tube = saliency.tube_of(videos / "12.mp4", model, "turn", CLASSES, size=32)
    assert tube.indices.tolist() == [1, 4, 7, 10] and tube.target == 4
    assert tube.frames.shape == (4, 32, 32, 3) and tube.tube.shape == (4, 32, 32) and tube.positions == (1, 1)
    pixels = video.read_frames(videos / "12.mp4", [1, 4, 7, 10])
    clip = transforms.test_views(pixels, 32, 32, 1)
    tubes, scores = saliency.saliency_tubes(model, clip, 4)
    np.testing.assert_allclose(tube.tube, tubes[0].numpy())
    np.testing.assert_allclose(tube.scores, scores[0].numpy())
    assert np.array_equal(tube.frames, transforms.to_pixels(clip[0])) and tube.predicted == scores[0].argmax()


def test_a_checkpoint_knows_how_its_network_is_tested(model, videos):
    view = View(num_frames=2, size=40, short_side=44, sampling="dense-windows")
    trained = checkpoints.Checkpoint(model, CLASSES, {}, view)
    tube = saliency.tube_of(videos / "12.mp4", trained)
    assert tube.indices.tolist() == [0, 6] and tube.frames.shape == (2, 40, 40, 3)
    other = saliency.TubeOptions(sampling="sparse", num_frames=4)
    tube = saliency.tube_of(videos / "12.mp4", trained, size=32, options=other)
    assert tube.indices.tolist() == [1, 4, 7, 10] and tube.frames.shape == (4, 32, 32, 3)
    with pytest.raises(ValueError, match="does not say how it sees a video: give size$"):
        saliency.tube_of(videos / "12.mp4", model)


def test_a_map_of_few_positions_is_too_coarse():
    assert saliency.too_coarse((4, 7)) == ""
    assert saliency.too_coarse((4, 3)).endswith("last map has 4 x 3 positions, too few to show where")


def test_frames_of_a_short_video_repeat(model, videos):
    tube = saliency.tube_of(str(videos / "2.mp4"), checkpoints.Checkpoint(model, CLASSES, {}), size=32)
    assert tube.indices.tolist() == [0, 0, 1, 1] and tube.target == tube.predicted


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 64, "options": {"short_side": 32}}, ValueError, "got size 64 and short_side 32"),
        ({"size": 32, "options": {"sampling": "spars"}}, ValueError, "did you mean 'sparse'"),
        ({"size": 32, "options": {"threshold": 1.0}}, ValueError, "threshold must be a share"),
        ({"size": 32, "options": {"num_frames": 0}}, ValueError, "num_frames must be at least 1"),
        ({"size": 32, "target": 5}, ValueError, "target must be a class from 0 to 4, got 5"),
    ],
)
def test_bad_arguments_for_a_video(model, videos, arguments, error, text):
    with pytest.raises(error, match=text):
        options = saliency.TubeOptions(**arguments.get("options", {}))
        saliency.tube_of(videos / "12.mp4", model, **arguments | {"options": options})


def test_a_missing_video_is_named(model, tmp_path):
    with pytest.raises(video.VideoError, match="none.mp4"):
        saliency.tube_of(tmp_path / "none.mp4", model, size=32)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"clips": torch.zeros(3, 4, 64, 64)}, ValueError, r"clips must be \(N, 3, T, H, W\).*got \(3, 4, 64, 64\)"),
        ({"clips": torch.zeros(0, 3, 4, 64, 64)}, ValueError, "none of them 0"),
        ({"clips": torch.zeros(1, 3, 4, 64, 64, dtype=torch.uint8)}, TypeError, "float tensor.*got torch.uint8"),
        ({"clips": np.zeros((1, 3, 4, 64, 64))}, TypeError, "float tensor.*got ndarray"),
        (
            {"clips": torch.zeros(1, 3, 4, 64, 64).double()},
            TypeError,
            "dtype, torch.float32, got torch.float64",
        ),
        ({"clips": torch.zeros(1, 3, 4, 64, 64, device="meta")}, ValueError, "model's device, cpu, got meta"),
        ({"target": 5}, ValueError, "target must be a class from 0 to 4, got 5"),
        ({"target": -1}, ValueError, "target must be a class from 0 to 4, got -1"),
        ({"target": True}, TypeError, "index or name, got bool True"),
        ({"target": [0, 1]}, ValueError, "one for each of the 3 clips, got 2"),
        ({"target": "lift"}, ValueError, "target 'lift' is a name: give the classes' names"),
        ({"target": "lfit", "classes": CLASSES}, ValueError, "unknown class 'lfit': did you mean 'lift'"),
        ({"target": 0, "classes": CLASSES[:3]}, ValueError, "classes must be the model's 5 names, got 3"),
        ({"threshold": 1.0}, ValueError, "threshold must be a share .*got 1.0"),
        ({"per": "video"}, ValueError, "unknown per 'video'"),
        ({"placement": "sen"}, ValueError, "unknown placement 'sen': did you mean 'seen'"),
        (
            {"model": nn.Linear(3, 5)},
            TypeError,
            r"backbone and a linear classifier fc.*got Linear \(backbone: NoneType",
        ),
    ],
)
def test_bad_input_names_what_came_and_what_was_needed(model, clips, change, error, text):
    with pytest.raises(error, match=text):
        saliency.saliency_tubes(**({"model": model, "clips": clips} | change))
    assert hooks(model) == 0


def test_a_head_that_is_not_linear_on_averages_is_refused(clips):
    class Greatest(nn.Module):
        def __init__(self):
            super().__init__()
            inner = network()
            self.backbone, self.fc, self.forward_features = inner.backbone, inner.fc, inner.forward_features

        def forward(self, clips):
            return self.fc(self.forward_features(clips).amax((2, 3, 4)))

    with pytest.raises(TypeError, match="those of Greatest differ from that by up to"):
        saliency.saliency_tubes(Greatest(), clips)
