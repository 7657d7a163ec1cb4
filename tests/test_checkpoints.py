"""Our checkpoints, and the authors': their network is built here in their layout, with their names."""

import argparse
import dataclasses
import json
import random
import re
import shlex
from importlib import metadata

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import ctlib
from ctlib import checkpoints, files
from ctlib.checkpoints import CheckpointError
from ctlib.data.views import View
from ctlib.models import build_model, model_config

CLASSES = [f"class {index}" for index in range(5)]
CLIPS = (2, 3, 8, 64, 64)


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=5, dropout=0.1)).eval()
    nn.init.normal_(network.fc.weight)
    nn.init.normal_(network.fc.bias)
    return network


@pytest.fixture
def saved(network, tmp_path):
    checkpoints.save(tmp_path / "made" / "c.safetensors", network, CLASSES)
    return tmp_path / "made" / "c.safetensors"


def logits(network):
    torch.manual_seed(1)
    with torch.no_grad():
        return network(torch.randn(CLIPS))


def test_a_package_that_is_not_installed_writes_checkpoints_too(network, tmp_path, monkeypatch):
    """Such as a source tree on the PYTHONPATH: the version is needed when a run ends, and must not be what ends it."""
    installed = metadata.version

    def version(package):
        if package == "ctlib":
            raise metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(metadata, "version", version)
    checkpoints.save(tmp_path / "c.safetensors", network, CLASSES)
    versions = checkpoints.load(tmp_path / "c.safetensors").versions
    assert versions["ctlib"] == "unknown" and versions["torch"] == installed("torch")
    assert checkpoints.load(tmp_path / "c.safetensors").classes == tuple(CLASSES)


def test_a_checkpoint_makes_the_round_trip(network, saved):
    found = checkpoints.load(saved)
    assert torch.equal(logits(found.model), logits(network))
    assert found.classes == tuple(CLASSES) and found.model.config == network.config and not found.model.training
    assert set(found.versions) == {"ctlib", "torch", "torchvision"}
    assert [path.name for path in saved.parent.iterdir()] == ["c.safetensors"]


def test_it_remembers_how_its_network_sees_a_video(network, saved, tmp_path):
    view = View(num_frames=8, size=48, short_side=56, sampling="mirrored")
    checkpoints.save(tmp_path / "c.safetensors", network, CLASSES, view)
    assert checkpoints.load(tmp_path / "c.safetensors", CLASSES[::-1]).view == view
    assert checkpoints.load_any(tmp_path / "c.safetensors", CLASSES).view == view
    assert checkpoints.load(saved).view is None and checkpoints.load(earlier(tmp_path / "c.pt", network)).view is None
    for value in ({**view.to_dict(), "sampling": "newer"}, {"size": 48}, [48]):
        with pytest.raises(CheckpointError, match=r"c\.pt describes a view that this version of ctlib does not know: "):
            checkpoints.load(earlier(tmp_path / "c.pt", network, view=value))


def test_its_file_holds_tensors_and_a_header_in_json(network, saved):
    with safe_open(saved, "pt") as file:
        assert set(file.keys()) == set(network.state_dict())
        header = json.loads(file.metadata()["ctlib"])
    assert header["classes"] == CLASSES and header["model"]["backbone"] == "quickstart" and header["format"] == 3


def test_the_same_network_gives_the_same_file(network, saved, tmp_path):
    checkpoints.save(tmp_path / "again.safetensors", network, CLASSES)
    assert saved.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_bit_that_was_turned_anywhere_is_noticed_or_changes_nothing(network, saved):
    whole = saved.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")  # of the tensors
    draw = random.Random(0)
    places = [*range(40), *draw.sample(range(40, begin), 40), *draw.sample(range(begin, len(whole)), 20), -1]
    for place in places:
        turned = bytearray(whole)
        turned[place] ^= 1 << draw.randrange(8)
        saved.write_bytes(turned)
        with pytest.raises(CheckpointError, match=r"c\.safetensors") as error:
            checkpoints.load(saved)
        assert len(str(error.value)) < 500 and "\n" not in str(error.value)
    for length in (0, 7, 8, 200, begin, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"c\.safetensors is damaged"):
            checkpoints.load(saved)


def earlier(path, network, classes=CLASSES, **parts):
    """A checkpoint of format 2, which is a torch file."""
    content = {"format": 2, "model": network.config.to_dict(), "classes": list(classes), "versions": {"ctlib": "0"}}
    content = {**content, "state_dict": network.state_dict(), **parts}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_a_checkpoint_of_format_2_still_loads_and_a_turned_byte_of_it_is_noticed(network, tmp_path):
    path = earlier(tmp_path / "old.pt", network)
    assert torch.equal(logits(checkpoints.load(path).model), logits(network))
    turned = bytearray(path.read_bytes())
    turned[len(turned) // 2] ^= 1
    path.write_bytes(turned)
    with pytest.raises(
        CheckpointError, match=r"old\.pt .*cannot be read .*the checksum of its part old/data/.* differs"
    ):
        checkpoints.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(network, tmp_path, value):
    with torch.no_grad():
        network.backbone.bn1.running_var[3] = value
    with pytest.raises(ValueError, match="is not written: the model's weights are not finite: backbone.bn1.running_va"):
        checkpoints.save(tmp_path / "c.safetensors", network, CLASSES)
    assert list(tmp_path.iterdir()) == []
    path = earlier(tmp_path / "old.pt", network)
    for read in (checkpoints.load, lambda path: checkpoints.start_from(path, build_model(network.config), CLASSES)):
        with pytest.raises(
            CheckpointError, match=r"old\.pt holds weights that are not finite: backbone.bn1.running_va"
        ):
            read(path)


def test_published_weights_are_not_looked_for_again(tmp_path, monkeypatch):
    with torch.device("meta"):
        model = ctlib.ctnet_r50(num_classes=5, weights=None)
    model = model.to_empty(device="cpu")
    for value in model.state_dict().values():
        value.zero_()
    model.config = dataclasses.replace(model.config, weights="imagenet")
    checkpoints.save(tmp_path / "c.safetensors", model, CLASSES)
    monkeypatch.setattr(ctlib.models, "published", lambda backbone: pytest.fail("looked for published weights"))
    assert checkpoints.load(tmp_path / "c.safetensors").model.config == model.config


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_precision_makes_the_round_trip(network, tmp_path, dtype):
    checkpoints.save(tmp_path / "c.safetensors", network.to(dtype), CLASSES)
    found = checkpoints.load(tmp_path / "c.safetensors", classes=CLASSES[::-1]).model
    assert found.fc.weight.dtype == found.backbone.conv1.weight.dtype == dtype
    assert torch.equal(found.fc.weight, network.fc.weight.flip(0))


def test_a_compiled_or_wrapped_network_is_saved_as_the_network(network, tmp_path):
    for wrapped in (
        torch.compile(network, backend="eager"),
        nn.DataParallel(network),
        nn.DataParallel(nn.DataParallel(network)),
    ):
        checkpoints.save(tmp_path / "c.safetensors", wrapped, np.array(CLASSES))
        found = checkpoints.load(tmp_path / "c.safetensors")
        assert torch.equal(logits(found.model), logits(network)) and found.classes == tuple(CLASSES)


def test_a_file_that_contradicts_itself_is_refused(network, tmp_path):
    path, model, state = tmp_path / "c.pt", network.config.to_dict(), network.state_dict()

    def refused(text, **parts):
        with pytest.raises(CheckpointError, match=text) as error:
            checkpoints.load(earlier(path, network, **parts))
        assert "c.pt" in str(error.value) and "\n" not in str(error.value)
        return error.value

    refused("names 3 classes, but its classifier has another number", classes=CLASSES[:3])
    refused("describes a network that this version .* class names must differ", classes=["a"] * 5)
    refused("describes a network that this version .*'newer'", model={**model, "newer": 1})
    refused("describes a network that this version .* unknown backbone 'x'", model={**model, "backbone": "x"})
    refused("describes a network that this version .* dims", model={**model, "dims": [0, 0]})
    error = refused(
        r"does not fit the model: \d+ missing: backbone.*; 1 of another shape: fc.weight \(5, 1\)",
        state_dict={"fc.weight": torch.zeros(5, 1), "fc.bias": torch.zeros(5)},
    )
    assert len(error.missing) > 50 and error.mis_shaped == ("fc.weight (5, 1), needed (5, 512)",)
    refused("has format 4, this version of ctlib reads 1 to 3", format=4)
    key = "backbone.conv1.weight"
    refused("needs dense tensors by name, got 'backbone.conv1.weight': str", state_dict={**state, key: "x"})
    sparse = {**state, key: state[key].to_sparse()}
    refused("needs dense tensors by name, got 'backbone.conv1.weight': torch.sparse_coo", state_dict=sparse)
    refused("needs dense tensors by name, got 7: torch.strided", state_dict={**state, 7: state[key]})


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ctnet_quickstart", {}),
        ("ctnet_quickstart", {"module": "r2plus1d"}),
        ("ctnet_laptop_inception", {"module": "csn", "blocks": ("Mixed_5b.branch3x3dbl_2",)}),
    ],
)
def test_a_checkpoint_of_format_1_is_loaded_by_its_new_names(tmp_path, name, parts):
    torch.manual_seed(0)
    network = build_model(model_config(name, num_classes=5, num_frames=2, **parts)).eval()
    content = torch.load(earlier(tmp_path / "c.pt", network), weights_only=True)
    content["format"] = 1
    content["model"]["trunk"] = content["model"].pop("backbone")
    old = {re.sub("^backbone", "trunk", key): value for key, value in content["state_dict"].items()}
    if "module" in parts:  # C3D, R(2+1)D and CSN were Sequentials
        old = {re.sub(r"sub_operations\.(\d)\.conv\.", r"\1.", key): value for key, value in old.items()}
        block = "trunk.layer1.1.conv2" if "blocks" not in parts else "trunk.body.Mixed_5b.branch3x3dbl_2.module"
        assert old[f"{block}.1.0.weight"].ndim == 5 and f"{block}.1.1.running_mean" in old
    torch.save({**content, "state_dict": old}, tmp_path / "old.pt")
    model = checkpoints.load(tmp_path / "old.pt").model
    assert model.config == network.config
    torch.testing.assert_close(model.state_dict(), network.state_dict(), rtol=0, atol=0)
    checkpoints.start_from(tmp_path / "old.pt", build_model(network.config), CLASSES)


def test_a_checkpoint_from_before_formats_says_so(network, tmp_path):
    with pytest.raises(CheckpointError, match="lacks format, versions .*written by an older ctlib"):
        checkpoints.load(earlier(tmp_path / "c.pt", network, format=None, versions=None))


def test_the_same_classes_in_another_order_are_sorted_out_by_name(network, saved):
    order = [3, 0, 4, 1, 2]
    found = checkpoints.load(saved, classes=[CLASSES[index] for index in order])
    torch.testing.assert_close(logits(found.model), logits(network)[:, order])


def test_other_classes_are_refused_by_name(saved):
    with pytest.raises(CheckpointError, match="has 5 classes, other ones than the 5 asked for") as error:
        checkpoints.load(saved, classes=[*CLASSES[:4], "falling"])
    assert "asked for: 1 that it does not have: falling; 1 that you do not: class 4 (class_map" in str(error.value)
    with pytest.raises(CheckpointError, match="1 that you do not: class 4"):
        checkpoints.load(saved, classes=CLASSES[:4])


def test_class_map_renames_classes(network, saved):
    found = checkpoints.load(saved, classes=["falling", "class 0"], class_map={"falling": "class 4"})
    torch.testing.assert_close(logits(found.model), logits(network)[:, [4, 0]])
    assert found.classes == ("falling", "class 0") and found.model.config.num_classes == 2
    with pytest.raises(CheckpointError, match="class_map names 1 that are not among your classes: fallin"):
        checkpoints.load(saved, classes=CLASSES, class_map={"fallin": "class 4"})
    with pytest.raises(CheckpointError, match="asked for twice: class 0"):
        checkpoints.load(saved, classes=["falling", "class 0"], class_map={"falling": "class 0"})


def test_a_fresh_head_keeps_the_backbone(network, saved):
    found = checkpoints.load(saved, classes=["a", "b"], fresh_head=True).model
    assert found.fc.out_features == 2 and found.fc.bias.abs().sum() == 0
    assert torch.equal(found.backbone.conv1.weight, network.backbone.conv1.weight)
    for other in ({}, {"classes": ["a"], "class_map": {"a": "class 0"}}):
        with pytest.raises(ValueError, match="fresh_head needs the names of its classes, and no class_map"):
            checkpoints.load(saved, fresh_head=True, **other)


def test_names_must_be_as_many_as_classes_and_differ(network, tmp_path):
    with pytest.raises(ValueError, match="has 5 classes, got 2 names"):
        checkpoints.save(tmp_path / "c.safetensors", network, ["a", "b"])
    with pytest.raises(ValueError, match="the model has no classes, and a checkpoint needs them"):
        checkpoints.save(tmp_path / "c.safetensors", build_model(model_config("tsn_quickstart", num_classes=0)), [])
    with pytest.raises(ValueError, match="got twice: a"):
        checkpoints.save(tmp_path / "c.safetensors", network, ["a", "b", "c", "d", "a"])
    with pytest.raises(ValueError, match="got the one string 'abcde'"):
        checkpoints.save(tmp_path / "c.safetensors", network, "abcde")
    with pytest.raises(ValueError, match=r"a checkpoint is written as a .safetensors file, got .*c\.pt"):
        checkpoints.save(tmp_path / "c.pt", network, CLASSES)
    with pytest.raises(TypeError, match="a checkpoint holds a VideoClassifier, got Linear"):
        checkpoints.save(tmp_path / "c.safetensors", nn.Linear(2, 5), CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_checkpoints(network, saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing\.pt"):
        checkpoints.load(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pt is no checkpoint, .* be read as tensors .*\(Unsupported"):
        checkpoints.load(tmp_path / "text.pt")
    whole = earlier(tmp_path / "cut.pt", network).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match=r"cut\.pt .*cannot be read as tensors"):
        checkpoints.load(tmp_path / "cut.pt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*c\.pt; c\.safetensors lies there"):
        checkpoints.load(saved.with_suffix(".pt"))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors has no header of this package"):
        checkpoints.load_any(tmp_path / "other.safetensors", CLASSES)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this ctlib: it lacks format, model.*load_released"):
        checkpoints.load(tmp_path / "theirs.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        checkpoints.load_released(ctlib.tsn_r50(2), tmp_path / "list.pt")
    torch.save({"state_dict": nn.Linear(1, 1)}, tmp_path / "code.pt")  # a pickled class would run its code
    with pytest.raises(CheckpointError, match="it holds a torch.nn.modules.linear.Linear.*nothing else is loaded from"):
        checkpoints.load(tmp_path / "code.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_script_s_numpy_numbers_are_read_and_its_objects_named(tmp_path, zipped):
    """TSM's script keeps its best accuracy; others keep their arguments."""
    model, path = ctlib.tsn_r50(2, num_frames=2), tmp_path / "ckpt.pth.tar"
    state = {f"module.{key}": value for key, value in model.state_dict().items()}

    def saved(**more):
        torch.save({"state_dict": state, "epoch": 5, **more}, path, _use_new_zipfile_serialization=zipped)
        return path

    for number in (np.float64(49.9), np.float32(1), np.int64(3), np.bool_(True)):
        checkpoints.load_released(ctlib.tsn_r50(2, num_frames=2), saved(best=number))
    for value, name in (
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.ones(3), "numpy._core.multiarray._rec"),
    ):
        with pytest.raises(CheckpointError, match=f"it holds a {name}.*; nothing else is loaded") as error:
            checkpoints.load_released(model, saved(args=value))
        assert str(error.value).isprintable() and len(str(error.value)) < 400


# The network of the authors' format: their layout (a convolution on 5D tensors, explicit permutations) and names.


def conv_bn(channels, out, kernel, groups=1, bn=True):
    padding = tuple(extent // 2 for extent in kernel)
    kind, norm = (nn.Conv2d, nn.BatchNorm2d) if len(kernel) == 2 else (nn.Conv3d, nn.BatchNorm3d)
    conv = kind(channels, out, kernel, padding=padding, groups=groups, bias=False)
    return nn.Sequential(conv, norm(out)) if bn else nn.Sequential(conv)


class TheirAttention(nn.Module):
    def __init__(self, channels, groups, kernel, pooled):
        super().__init__()
        self.pooled = pooled
        self.fc1 = conv_bn(channels, channels // 4, kernel, groups)
        self.fc2 = conv_bn(channels // 4, channels, kernel, groups, bn=False)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(self.pooled, keepdim=True)))))


class TheirModule(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.x, self.y = {64: (8, 8), 128: (8, 16), 256: (16, 16), 512: (16, 32)}[channels]
        for axis, spatial, temporal, groups in (
            ("x", "conv1_x", "conv1_z", self.x),
            ("y", "conv2_y", "conv2_z", self.y),
        ):
            self.add_module(spatial, conv_bn(channels, channels, (1, 3, 3), groups))
            self.add_module(temporal, conv_bn(channels, channels, (3, 1, 1), groups))
            self.add_module(f"s{axis}_attention", TheirAttention(channels, groups, (1, 3, 3), 2))
            self.add_module(f"t{axis}_attention", TheirAttention(channels, groups, (3, 1, 1), (3, 4)))
            self.add_module(f"c{axis}_attention", TheirAttention(channels, groups, (1, 1, 1), (3, 4)))
        self.fusion = conv_bn(channels, channels, (1, 1, 1))

    def forward(self, x):  # (N, C, T, H, W)
        u = self.sx_attention(F.relu(self.conv1_x(x)))
        v = self.tx_attention(F.relu(self.conv1_z(x)))
        x = F.relu(self.fusion(self.cx_attention(u + v)))
        x = x.unflatten(1, (self.x, self.y)).transpose(1, 2).flatten(1, 2)
        u = self.sy_attention(F.relu(self.conv2_y(x)))
        v = self.ty_attention(F.relu(self.conv2_z(x)))
        x = self.cy_attention(u + v)
        return x.unflatten(1, (self.y, self.x)).transpose(1, 2).flatten(1, 2)


class TheirBlock(nn.Module):
    def __init__(self, block, num_frames):
        super().__init__()
        width, outer = block.conv1.out_channels, block.conv3.out_channels
        self.num_frames = num_frames
        self.conv1 = conv_bn(outer, width, (1, 1))
        self.conv2 = TheirModule(width)
        self.conv3 = conv_bn(width, outer, (1, 1))

    def forward(self, x):
        out = F.relu(self.conv1(x)).unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        return F.relu(self.conv3(self.conv2(out).transpose(1, 2).flatten(0, 1)) + x)


class Theirs(nn.Module):
    def __init__(self, num_classes, num_frames):
        super().__init__()
        import torchvision

        self.num_frames = num_frames
        self.base_model = torchvision.models.resnet50()
        for stage in (1, 2, 3, 4):
            layer = getattr(self.base_model, f"layer{stage}")
            for index in range(1, len(layer), 2):
                layer[index] = TheirBlock(layer[index], num_frames)
        self.base_model.fc = nn.Identity()
        self.new_fc = nn.Linear(2048, num_classes)

    def forward(self, x):  # (N, T * 3, H, W)
        scores = self.new_fc(self.base_model(x.reshape(-1, 3, *x.shape[2:])))
        return scores.unflatten(0, (-1, self.num_frames)).mean(1)


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    network = Theirs(num_classes=7, num_frames=4)
    for name, tensor in network.state_dict().items():  # a trained network's statistics are not 0 and 1
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.uniform_(0.2, 0.6)
    return network.eval()


def same_logits(ours, theirs):
    torch.manual_seed(2)
    clips = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        expected = theirs(clips.transpose(1, 2).flatten(1, 2))
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(clips), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_checkpoint_computes_what_theirs_computes(theirs, prefix, tmp_path):
    state = {prefix + key: value for key, value in theirs.state_dict().items()}
    torch.save(
        {"epoch": 45, "arch": "resnet50", "state_dict": state, "best_prec1": torch.tensor(50.1)}, tmp_path / "r.pth"
    )
    ours = ctlib.ctnet_r50(num_classes=7)
    assert checkpoints.load_released(ours, tmp_path / "r.pth") is ours and not ours.training
    same_logits(ours, theirs)


def test_a_state_dict_and_an_old_one_without_counters_are_taken(theirs):
    state = {key: value for key, value in theirs.state_dict().items() if "num_batches_tracked" not in key}
    state = {key.replace("new_fc", "base_model.fc"): value for key, value in state.items()}  # as without dropout
    same_logits(checkpoints.load_released(ctlib.ctnet_r50(num_classes=7), state), theirs)


def test_what_does_not_fit_is_listed_by_count_and_name_and_nothing_is_loaded(theirs):
    state = dict(theirs.state_dict())
    del state["base_model.conv1.weight"], state["base_model.layer2.1.conv2.conv1_x.0.weight"]
    state["base_model.extra.weight"] = torch.zeros(1)
    ours = ctlib.ctnet_r50(num_classes=9)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        checkpoints.load_released(ours, state)
    text = str(error.value)
    assert "2 missing: backbone.conv1.weight, backbone.layer2.1.conv2.sub_operations.0.spatial.0.weight" in text
    assert "1 unexpected: base_model.extra.weight" in text
    assert "2 of another shape: new_fc.bias (7,), needed (9,), new_fc.weight (7, 2048), needed (9, 2048)" in text
    assert "fresh_head=True" in text
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())


def test_two_names_for_one_parameter_are_refused(theirs):
    state = theirs.state_dict()
    for more in ({"base_model.fc.bias": torch.zeros(7)}, {"module.new_fc.bias": torch.zeros(7)}):
        with pytest.raises(CheckpointError, match="new_fc.bias and .*fc.bias, which are the same parameter"):
            checkpoints.load_released(ctlib.ctnet_r50(num_classes=7), {**state, **more})
    with pytest.raises(CheckpointError, match=r"new_fc.bias \(7,\) of torch.int64, needed \(7,\)"):
        whole = {**state, "new_fc.bias": torch.zeros(7, dtype=torch.long)}
        checkpoints.load_released(ctlib.ctnet_r50(num_classes=7), whole)
    for nothing in ({}, {"state_dict": [1]}, {"state_dict": {}}, {"epoch": 3}):
        with pytest.raises(CheckpointError, match="holds no state dict of tensors"):
            checkpoints.load_released(ctlib.ctnet_r50(num_classes=7), nothing)


def test_another_number_of_classes_needs_a_fresh_head(theirs):
    state = theirs.state_dict()
    with pytest.raises(CheckpointError, match="2 of another shape"):
        checkpoints.load_released(ctlib.ctnet_r50(num_classes=9), state)
    ours = ctlib.ctnet_r50(num_classes=9)
    head = ours.fc.weight.clone()
    checkpoints.load_released(ours, state, fresh_head=True)
    assert torch.equal(ours.fc.weight, head)
    assert torch.equal(ours.backbone.conv1.weight, theirs.base_model.conv1.weight)


def test_the_error_for_another_network_is_short(theirs):
    with pytest.raises(CheckpointError) as error:
        checkpoints.load_released(ctlib.tsn_r50(num_classes=7), theirs.state_dict())
    assert re.search(r"\d+ missing: .*, and \d+ more", str(error.value)) and len(str(error.value)) < 3000


def test_any_checkpoint_is_recognised_by_its_content(saved, network, theirs, tmp_path):
    found = checkpoints.load_any(saved, CLASSES[::-1])
    torch.testing.assert_close(logits(found.model), logits(network)[:, [4, 3, 2, 1, 0]])
    path = tmp_path / "TSM_segment4_e45" / "ckpt.pth.tar"
    path.parent.mkdir()
    torch.save({"epoch": 45, "state_dict": theirs.state_dict()}, path)
    names = [f"class {index}" for index in range(7)]
    found = checkpoints.load_any(path, names, "ctnet_r50")
    same_logits(found.model, theirs)
    assert (found.model.config.num_frames, found.classes) == (4, tuple(names))
    assert checkpoints.load_any(path, names, "ctnet_r50", 16).model.config.num_frames == 16
    with pytest.raises(CheckpointError, match="not a checkpoint of ours; if it is the authors', name its network"):
        checkpoints.load_any(path, names)
    with pytest.raises(CheckpointError, match=r"new_fc.weight \(7, 2048\), needed \(9, 2048\)"):
        checkpoints.load_any(path, [*names, "more", "and more"], "ctnet_r50")
    other = path.rename(tmp_path / "ckpt.pth.tar")
    with pytest.raises(ValueError, match="does not contain the number of frames"):
        checkpoints.load_any(other, names, "ctnet_r50")


def test_a_digest_tells_files_apart(saved, tmp_path):
    (tmp_path / "copy.pt").write_bytes(saved.read_bytes())
    assert files.digest(saved) == files.digest(tmp_path / "copy.pt")
    (tmp_path / "copy.pt").write_bytes(saved.read_bytes() + b" ")
    assert files.digest(saved) != files.digest(tmp_path / "copy.pt")
    assert re.fullmatch("[0-9a-f]{16}", files.digest(saved))


def test_checkpoints_are_found_by_patterns_in_their_order_and_once(tmp_path):
    names = ["b/seed0/c.pt", "b/seed1/c.pt", "a b/c.pt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()

    def found(patterns):
        return [str(path.relative_to(tmp_path)) for path in checkpoints.find(patterns, tmp_path)]

    assert found("b/*/c.pt 'a b/c.pt'") == names
    assert found("**/c.pt") == sorted(names) and found("b/seed1/c.pt b/*/c.pt") == [names[1], names[0]]
    assert found(f"{tmp_path}/b/seed0/c.pt") == names[:1]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint matches 'x/\*.pt'"):
        found("**/c.pt x/*.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint matches 'b'"):
        found("b")
    with pytest.raises(FileNotFoundError, match="no checkpoint is named"):
        found(" ")


@pytest.mark.parametrize("folder", ["run[1]", "a b [01]", "Bob's", "two 'q' x", "[a-b]*?"])
@pytest.mark.parametrize("root", ["plain", "[root] 1*"])
def test_names_with_brackets_quotes_and_spaces_are_found(tmp_path, folder, root):
    path = tmp_path / root / folder / "seed0" / "c.pt"
    for made in (
        path,
        tmp_path / "[rootX] 1x" / "run1" / "seed0" / "c.pt",
        tmp_path / root / "run1" / "seed0" / "c.pt",
    ):
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch()
    for pattern in (f"{folder}/seed0/c.pt", str(path), shlex.quote(str(path))):
        assert checkpoints.find(pattern, tmp_path / root) == [path]
    if "*" not in folder:
        assert checkpoints.find(f"{folder}/*/c.pt", tmp_path / root) == [path]
    assert checkpoints.find(f"run1/seed[01]/c.pt {shlex.quote(str(path))}", tmp_path / root)[1:] == [path]


def test_a_pattern_for_either_format_finds_both_and_the_later_one_of_two(tmp_path):
    for name in (
        "a/checkpoint.pt",
        "b/checkpoint.safetensors",
        "c/checkpoint.pt",
        "c/checkpoint.safetensors",
        "c/x.tar",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = ["a/checkpoint.pt", "b/checkpoint.safetensors", "c/checkpoint.safetensors"]
    for pattern in ("*/checkpoint.pt", "*/checkpoint.safetensors"):
        found = checkpoints.find(pattern, tmp_path)
        assert [path.relative_to(tmp_path).as_posix() for path in found] == expected
    assert checkpoints.find("b/checkpoint.pt", tmp_path) == [tmp_path / "b" / "checkpoint.safetensors"]
    assert len(checkpoints.find("c/*", tmp_path)) == 2


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    network = build_model(model_config("tsn_quickstart", num_classes=2))
    checkpoints.save(tmp_path / "a.safetensors", network, ("a", "b"))
    assert checkpoints.load("~/a.safetensors").classes == ("a", "b")
    assert files.digest("~/a.safetensors") == files.digest(tmp_path / "a.safetensors")
    checkpoints.start_from("~/a.safetensors", network, ("a", "b"))


@pytest.mark.parametrize(("classes", "kept"), [(("b", "a"), True), (("a", "c"), False), (("a", "b", "c"), False)])
def test_starting_from_a_checkpoint_keeps_a_classifier_of_the_same_classes(tmp_path, classes, kept):
    torch.manual_seed(0)
    old = build_model(model_config("ctnet_quickstart", num_classes=2))
    checkpoints.save(tmp_path / "a.safetensors", old, ("a", "b"))
    new = build_model(model_config("ctnet_quickstart", num_classes=len(classes)))
    fresh = new.fc.weight.detach().clone()
    checkpoints.start_from(tmp_path / "a.safetensors", new, classes)
    assert torch.equal(new.backbone.conv1.weight, old.backbone.conv1.weight) and new.training
    assert torch.equal(new.fc.weight, old.fc.weight.flip(0) if kept else fresh)
    with pytest.raises(
        checkpoints.CheckpointError, match="a.safetensors is a network ctnet_quickstart, needed tsn_quickstart$"
    ):
        checkpoints.start_from(tmp_path / "a.safetensors", build_model(model_config("tsn_quickstart")), classes)
