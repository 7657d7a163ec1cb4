"""Memory layout, and each fast operation beside its plain version."""

import pytest
import torch

from ctlib.ct_module import CTModule, Parallel
from ctlib.deploy import _folded_sub_operation
from ctlib.kernels import operations
from ctlib.kernels.folded import fold_batch_norms
from ctlib.kernels.gating import excite, excite_plain
from ctlib.kernels.layout import clips_of, clips_of_planes, frames_of, planes_of
from ctlib.kernels.operations import average
from ctlib.kernels.passes import Gate
from ctlib.tensorize import TensorSeparableConv

EXACT, CLOSE = {"rtol": 0, "atol": 0}, {"rtol": 1e-12, "atol": 1e-12}


def channels_last(shape, dtype=torch.double):
    """Random clips of (N, C, T, H, W), channels last in memory."""
    n, c, t, h, w = shape
    torch.manual_seed(0)
    return clips_of(torch.randn(n * t, c, h, w, dtype=dtype).contiguous(memory_format=torch.channels_last), t)


@pytest.mark.parametrize("shape", [(2, 12, 3, 6, 4), (1, 12, 1, 3, 3), (2, 12, 1, 1, 1)])
@pytest.mark.parametrize("groups", [3, 4])
def test_a_channel_shuffle_is_the_plain_one_in_the_layout_that_it_got(shape, groups, monkeypatch):
    last = channels_last(shape)
    for _ in range(2):
        for clips in (last, last.contiguous()):
            shuffled = operations.channel_shuffle(clips, groups)
            assert torch.equal(shuffled, operations.channel_shuffle_plain(clips, groups))
            assert shuffled.stride() == clips.stride()
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # then as on a GPU, without PyTorch's own


@pytest.mark.parametrize("kernel", [(1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3), (1, 5, 3), (5, 1, 1)])
def test_a_convolution_is_the_plain_one(kernel):
    last, bias = channels_last((2, 12, 3, 6, 4)), torch.arange(6.0, dtype=torch.double)
    weight = torch.randn(6, 4, *kernel, dtype=torch.double)
    for clips in (last, last.contiguous()):
        expected = operations.convolve_plain(clips, weight, bias, 3)
        torch.testing.assert_close(operations.convolve(clips, weight, bias, 3), expected, **CLOSE)


def test_excitation_in_place_is_the_plain_one_and_the_module_it_was_folded_from():
    part = Parallel(8, 4, (3, 3, 3), "te").double().eval()
    clips = channels_last((2, 8, 3, 6, 4))
    expected = part(clips)
    fold_batch_norms(part)
    folded = _folded_sub_operation(part)
    torch.testing.assert_close(folded(clips), expected, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(folded(clips), expected, rtol=1e-8, atol=1e-8)
        spatial, temporal = channels_last((2, 8, 3, 6, 4)), channels_last((2, 8, 3, 6, 4)).abs()
        gates = tuple(Gate(gate) for gate in folded.gates)
        plain = excite_plain(spatial, temporal, gates)
        assert excite(spatial, temporal, gates).data_ptr() == spatial.data_ptr()
        torch.testing.assert_close(spatial, plain, **CLOSE)


@pytest.mark.parametrize("shape", [(1, 4, 1, 3, 2), (1, 4, 3, 3, 2), (2, 4, 3, 3, 2), (2, 4, 1, 1, 1)])
def test_views_of_clips_undo_each_other_without_a_copy(shape):
    n, c, t, h, w = shape
    frames = torch.randn(n * t, c, h, w).contiguous(memory_format=torch.channels_last)
    clips = clips_of(frames, t)
    assert clips.shape == shape and clips.stride() == (c * t * h * w, 1, c * h * w, c * w, c)
    planes = planes_of(clips)
    assert planes.stride() == (c * t * h * w, 1, c * h * w, c)
    for other, back in ((frames_of(clips), frames), (clips_of_planes(planes, (h, w)), clips)):
        assert torch.equal(other, back) and other.data_ptr() == frames.data_ptr()


@pytest.mark.parametrize("axes", [(2,), (3, 4), (2, 3, 4)])
def test_an_average_is_the_mean_and_has_its_gradient(axes):
    torch.manual_seed(0)
    frames = torch.randn(6, 4, 5, 3, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    for clips in (clips_of(frames, 3), torch.randn(2, 4, 3, 5, 3, dtype=torch.double)):
        torch.testing.assert_close(average(clips, axes), clips.mean(axes, keepdim=True), rtol=1e-13, atol=1e-13)
        assert torch.autograd.gradcheck(lambda x: average(x, axes), clips.detach().requires_grad_())


@pytest.mark.parametrize("number", [1, 2])
def test_a_module_in_training_keeps_channels_last(number):
    module = CTModule(8, (4, 2))
    seen = []
    for conv in module.modules():
        if isinstance(conv, TensorSeparableConv):
            conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    frames = torch.randn(3 * number, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    out = module(clips_of(frames, 3))
    assert len(seen) == 17  # of each sub-operation two and six in its gates, and one between them
    assert all(clips.stride(1) == 1 for clips in [*seen, out])


def test_frames_and_clips_are_inverse():
    clips = torch.randn(2, 3, 4, 5, 6)
    frames = frames_of(clips)
    assert torch.equal(frames[4 + 1], clips[1, :, 1])
    assert torch.equal(clips_of(frames, 4), clips)
    last = clips.to(memory_format=torch.channels_last_3d)
    assert frames_of(last).data_ptr() == last.data_ptr()  # a view: nothing is copied
