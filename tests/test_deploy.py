import json
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from benchmarks.plain import PlainCTNet
from ctlib import deploy
from ctlib.checkpoints import Checkpoint
from ctlib.ct_module import CTModule
from ctlib.data.views import View
from ctlib.kernels import BATCH_NORMS, folded
from ctlib.kernels.layout import use_channels_last
from ctlib.models import build_model, model_config
from ctlib.rivals import ctnet_r50

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'ctlib[onnx]'",
)


def drawn(model):
    """With statistics as after training, so that folding changes weights."""
    torch.manual_seed(0)
    for norm in (layer for layer in model.modules() if isinstance(layer, BATCH_NORMS)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, std=0.1)
    nn.init.normal_(model.fc.weight, std=0.1)
    return model.eval()


def test_few_graphs_are_kept_as_each_has_memory_of_its_own():
    ready = deploy.Compiled(network())
    first, *others = [ready._graph_of(torch.zeros(1, 3, 2, size, size)) for size in range(32, 32 + ready.MOST)]
    assert ready._graph_of(torch.ones(1, 3, 2, 32, 32)) is first and ready.MOST == len(ready.graphs) == 8
    ready._graph_of(torch.zeros(2, 3, 2, 32, 32))
    assert list(ready.graphs.values())[:-1] == others
    ready.double()  # its weights lie elsewhere then
    assert not ready.graphs


def network(name="ctnet_quickstart", **parts):
    return drawn(build_model(model_config(name, num_classes=5, **parts)))


def assert_same(mine, other, allowed):
    assert ((mine - other).norm() / other.norm()).item() < allowed


ONE_BLOCK = ((1,), (), (), ())
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
    use_channels_last(model, channels_last)
    clips = torch.randn(2, 3, 4, 40, 33, dtype=torch.double)
    optimized = deploy.optimize(model)
    with torch.no_grad():
        expected = model(clips)
        assert_same(optimized(clips), expected, 1e-12)
        assert_same(optimized(clips[:1, :, :1]), model(clips[:1, :, :1]), 1e-12)
    assert_same(optimized(clips), expected, 1e-12)
    assert not any(isinstance(module, BATCH_NORMS) for module in optimized.modules())
    assert any(isinstance(module, BATCH_NORMS) for module in model.modules())


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


def test_what_cannot_be_optimized_is_refused():
    with pytest.raises(TypeError, match="a VideoClassifier, got Linear"):
        deploy.optimize(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="optimized already"):
        deploy.optimize(deploy.optimize(network()))


def test_no_channel_shuffle_and_no_copy_is_left():
    """With one clip as with several, what a convolution gets is laid out channels last."""
    optimized = deploy.optimize(network())
    assert not any(isinstance(module, folded.ChannelShuffle | CTModule) for module in optimized.modules())
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


def test_channel_shuffles_stay_where_no_weight_absorbs_them():
    optimized = deploy.optimize(network(dims=3, pointwise=False, excitation="none"))
    for block in optimized.backbone.replaced():
        assert sum(isinstance(step, folded.ChannelShuffle) for step in block.conv2) == 2


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


compile_torch = torch.compile


def test_compiled_gives_the_same_scores(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, mode=None: compile_torch(module, backend="eager"))
    model = network(blocks=ONE_BLOCK)
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = model(clips)
    assert_same(deploy.compiled(model)(clips), expected, 1e-4)
    assert_same(deploy.compiled(deploy.optimize(model))(clips), expected, 1e-4)


@pytest.mark.slow
def test_compiled_by_inductor_gives_the_same_scores():
    model = network(blocks=ONE_BLOCK)
    fast = deploy.compiled(model)
    for shape in ((1, 3, 4, 32, 32), (3, 3, 4, 32, 32)):
        clips = torch.randn(shape)
        with torch.no_grad():
            expected = model(clips)
        assert_same(fast(clips), expected, 1e-4)


@needs_onnx
@pytest.mark.parametrize("parts", [{}, pytest.param({"excitation": "se", "dims": 3}, marks=pytest.mark.slow)])
def test_an_exported_network_agrees_at_any_batch(tmp_path, parts):
    import onnxruntime

    model = network(blocks=ONE_BLOCK, **parts)
    path = tmp_path / "model.onnx"
    deploy.export(model, path, size=40, num_frames=4, classes="abcde")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for number in (1, 2, 5):
        clips = torch.randn(number, 3, 4, 40, 40)
        (scores,) = session.run(["scores"], {"clips": clips.numpy()})
        with torch.no_grad():
            assert_same(torch.from_numpy(scores), model(clips), 1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["clips"].startswith("(N, 3, 4, 40, 40)") and json.loads(
        metadata["mean"].replace("(", "[").replace(")", "]")
    )
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@needs_onnx
def test_a_checkpoint_is_exported_as_it_was_tested(tmp_path):
    import onnx

    view = View(num_frames=2, size=40, short_side=44, sampling="mirrored")
    Checkpoint(network("tsn_quickstart"), tuple("abcde"), {}, view).save(tmp_path / "c.safetensors")
    deploy.export(tmp_path / "c.safetensors", tmp_path / "model.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert metadata["clips"].startswith("(N, 3, 2, 40, 40)") and json.loads(metadata["classes"]) == list("abcde")
    assert View.from_dict(json.loads(metadata["view"])) == view
    with pytest.raises(ValueError, match="nothing says at which size the network was trained: give size, in pixels"):
        deploy.export(Checkpoint(network("tsn_quickstart"), tuple("abcde"), {}), tmp_path / "model.onnx")


@needs_onnx
def test_a_mean_and_std_that_are_assumed_are_said(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(torch.onnx, "export", stop)  # what follows is tested above
    trained = Checkpoint(network("tsn_quickstart"), tuple("abcde"), {})
    with pytest.warns(UserWarning, match="ImageNet's are assumed"), pytest.raises(InterruptedError):
        deploy.export(trained, tmp_path / "model.onnx", size=40)


@needs_onnx
def test_a_failed_export_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("before")
    with pytest.raises(ValueError, match="at least 1, got 0 and 40"):
        deploy.export(network(), path, size=40, num_frames=0)
    with pytest.raises(ValueError, match="has 5 classes, got the names of 2"):
        deploy.export(network(), path, size=40, classes=("a", "b"))
    broken = network()
    nn.init.constant_(broken.fc.bias, float("inf"))
    with pytest.raises(ValueError, match="scores are not finite for 1 of 1 clips or videos, the first of them a grey"):
        deploy.export(broken, path, size=40)
    with pytest.raises(TypeError, match="got Linear"):
        deploy.export(nn.Linear(2, 2), path, size=40)
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere to write model.onnx to"):
        deploy.export(network(), tmp_path / "nowhere" / "model.onnx", size=40)
    with pytest.raises(IsADirectoryError, match=f"{tmp_path} is a folder: name the file to write, such as"):
        deploy.export(network(), tmp_path, size=40)
    assert path.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ctlib\[onnx\]"):
        deploy.export(network(), tmp_path / "model.onnx", size=40)
