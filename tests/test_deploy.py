import json
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.plain import PlainCTNet
from ctlib import deploy
from ctlib.ct_module import CTModule
from ctlib.kernels.layout import average, clips_of, clips_of_planes, frames_of, planes_of
from ctlib.models import build_model, ctnet_r50, model_config
from ctlib.tensorize import TensorSeparableConv

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'ctlib[onnx]'",
)


def drawn(model):
    """With statistics as after training: folding them is not the identity."""
    torch.manual_seed(0)
    for norm in (layer for layer in model.modules() if isinstance(layer, _BatchNorm)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, std=0.1)
    nn.init.normal_(model.fc.weight, std=0.1)
    return model.eval()


def network(name="ctnet_quickstart", **parts):
    return drawn(build_model(model_config(name, num_classes=5, **parts)))


def assert_same(mine, other, allowed):
    assert ((mine - other).norm() / other.norm()).item() < allowed


SETTINGS = [
    {},
    {"name": "tsn_quickstart"},
    {"dims": 1},
    {"dims": 3},
    {"dims": (-1, 2)},
    {"dims": 3, "pointwise": False, "excitation": "none"},
    {"excitation": "se"},
    {"excitation": "none"},
    {"connection": "serial"},
    {"connection": "coupling", "excitation": "none"},
    {"kernels": ((1, 1, 1), (5, 5, 5))},
    {"module": "c3d"},
    {"module": "r2plus1d"},
    {"module": "csn"},
    {"blocks": "all but first"},
]


@pytest.mark.parametrize("parts", SETTINGS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_an_optimized_network_gives_the_same_scores(parts, channels_last):
    model = network(**parts).double()
    model.channels_last = channels_last
    clips = torch.randn(2, 3, 4, 40, 33, dtype=torch.double)
    optimized = deploy.optimize(model)
    with torch.no_grad():
        expected = model(clips)
        assert_same(optimized(clips), expected, 1e-12)
        assert_same(optimized(clips[:1, :, :1]), model(clips[:1, :, :1]), 1e-12)
    assert_same(optimized(clips), expected, 1e-12)
    assert not any(isinstance(module, _BatchNorm) for module in optimized.modules())
    assert any(isinstance(module, _BatchNorm) for module in model.modules())


def test_float32_and_inception_too():
    for model, size in ((drawn(ctnet_r50(7)), 64), (network("ctnet_inception_v3"), 80)):
        clips = torch.randn(1, 3, 8, size, size)
        with torch.no_grad():
            assert_same(deploy.optimize(model)(clips), model(clips), 1e-4)


def test_the_original_stays_and_the_copy_is_for_inference():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    optimized = deploy.optimize(model)
    assert model.training and not optimized.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    clips = torch.randn(1, 3, 4, 32, 32, requires_grad=True)
    optimized(clips).sum().backward()  # a saliency map by gradients, say
    model.eval()(clips.detach().requires_grad_())
    expected = torch.autograd.grad(model(clips).sum(), clips)[0]
    assert_same(clips.grad, expected, 1e-4)


def test_what_cannot_be_optimized_is_said():
    with pytest.raises(TypeError, match="a VideoClassifier, got Linear"):
        deploy.optimize(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="optimized already"):
        deploy.optimize(deploy.optimize(network()))


def test_no_turn_and_no_copy_is_left():
    """With one clip as with several, what a convolution gets is laid out channels last."""
    optimized = deploy.optimize(network())
    assert not any(isinstance(module, deploy.Turn | CTModule) for module in optimized.modules())
    seen = []
    for module in optimized.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for number in (1, 2):
        with torch.no_grad():
            optimized(torch.randn(number, 3, 4, 64, 64))
    assert len(seen) > 50
    for features in seen:
        n, c, h, w = features.shape
        if c > 3 and h * w > 1:
            assert features.stride() == (c * h * w, 1, c * w, c), features.shape


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


def test_turns_that_no_weight_takes_in_stay():
    optimized = deploy.optimize(network(dims=3, pointwise=False, excitation="none"))
    blocks = [module for module in optimized.modules() if isinstance(module, deploy.FoldedCTModule)]
    assert all(sum(isinstance(step, deploy.Turn) for step in block.steps) == 2 for block in blocks)


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


def test_a_plain_ct_net_has_the_same_scores_and_gradients():
    """Conv3d, explicit permutations and batch norms apart: `benchmarks/plain.py` shares no arithmetic with ctlib."""
    torch.manual_seed(0)
    ours = ctnet_r50(5, num_frames=4, dropout=0.0).double()
    plain = PlainCTNet(5, num_frames=4, dropout=0.0).double()
    plain.load_state_dict(ours.state_dict())
    clips = torch.randn(2, 3, 4, 64, 64, dtype=torch.double)
    grads = []
    for model in (ours, plain):
        out = model.train()(clips)
        (out * torch.arange(5)).sum().backward()
        grads.append((out.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    assert_same(grads[0][0], grads[1][0], 1e-9)
    for name, grad in grads[1][1].items():
        assert_same(grads[0][1][name], grad, 1e-6)


def test_a_convolution_takes_a_bias():
    conv = TensorSeparableConv(8, 4, (3, 1, 1))
    x = torch.randn(2, 8, 3, 4, 4)
    before = conv(x)
    conv.bias = nn.Parameter(torch.arange(8.0))
    torch.testing.assert_close(conv(x), before + torch.arange(8.0).view(1, 8, 1, 1, 1))


def test_compiled_gives_the_same_scores(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module: compile_eager(module))
    model = network()
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = model(clips)
    assert_same(deploy.compiled(model)(clips), expected, 1e-4)
    assert_same(deploy.compiled(deploy.optimize(model))(clips), expected, 1e-4)


compile_torch = torch.compile


def compile_eager(module):
    return compile_torch(module, backend="aot_eager")


@pytest.mark.slow
def test_compiled_by_inductor_gives_the_same_scores():
    model = network()
    fast = deploy.compiled(model)
    for shape in ((1, 3, 4, 32, 32), (3, 3, 4, 32, 32)):
        clips = torch.randn(shape)
        with torch.no_grad():
            expected = model(clips)
        assert_same(fast(clips), expected, 1e-4)


@needs_onnx
@pytest.mark.parametrize("parts", [{}, {"excitation": "se", "dims": 3}])
def test_an_exported_network_agrees_at_any_batch(tmp_path, parts):
    import onnxruntime

    model = network(**parts)
    path = tmp_path / "model.onnx"
    deploy.export(model, path, size=40, num_frames=4, classes="abcde")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for number in (1, 2, 5):
        clips = torch.randn(number, 3, 4, 40, 40)
        (scores,) = session.run(["scores"], {"clips": clips.numpy()})
        with torch.no_grad():
            assert_same(torch.from_numpy(scores), model(clips), 1e-4)
    told = session.get_modelmeta().custom_metadata_map
    assert told["clips"].startswith("(N, 3, 4, 40, 40)") and json.loads(
        told["mean"].replace("(", "[").replace(")", "]")
    )
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@needs_onnx
def test_a_failed_export_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("before")
    with pytest.raises(ValueError, match="at least 1, got 0 and 40"):
        deploy.export(network(), path, size=40, num_frames=0)
    with pytest.raises(ValueError, match="has 5 classes, got the names of 2"):
        deploy.export(network(), path, size=40, classes=("a", "b"))
    with pytest.raises(TypeError, match="got Linear"):
        deploy.export(nn.Linear(2, 2), path, size=40)
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere to write model.onnx to"):
        deploy.export(network(), tmp_path / "nowhere" / "model.onnx", size=40)
    assert path.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ctlib\[onnx\]"):
        deploy.export(network(), tmp_path / "model.onnx", size=40)
