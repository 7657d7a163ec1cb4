import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctlib.ct_module import CONNECTIONS, SPECIAL_CASES, CTModule, special_case
from ctlib.excitation import EXCITATIONS

SETTINGS = [(c, e) for c in CONNECTIONS for e in EXCITATIONS if (c, e) != ("coupling", "te")]


@pytest.mark.parametrize(("connection", "excitation"), SETTINGS)
@pytest.mark.parametrize("dims", [1, 2, 3, (8, 2)])
def test_every_setting_keeps_the_shape_and_trains_every_parameter(connection, excitation, dims):
    torch.manual_seed(1)
    module = CTModule(16, dims, connection=connection, excitation=excitation)
    out = module(torch.randn(4, 16, 3, 6, 4))
    assert out.shape == (4, 16, 3, 6, 4) and out.isfinite().all()
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_parallel_is_the_paper_s_equations_written_out():
    """Eq. (3)-(8) for K = 2, with explicit permutations: the module as the paper's text has it."""
    torch.manual_seed(0)
    module = CTModule(12, (4, 3)).double()
    x = torch.randn(2, 12, 4, 6, 6, dtype=torch.double)

    def conv(conv, x):
        padding = [k // 2 for k in conv.weight.shape[2:]]
        return F.conv3d(x, conv.weight, padding=padding, groups=conv.groups)

    def norm(x):  # batch norm as it starts: weight 1, bias 0
        mean = x.mean((0, 2, 3, 4), keepdim=True)
        variance = x.var((0, 2, 3, 4), keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt()

    def gate(branch, x, axes):
        pooled = x.mean(axes, keepdim=True)
        return x * torch.sigmoid(conv(branch.expand, F.relu(norm(conv(branch.reduce, pooled)))))

    def sub_operation(part, x):
        spatial = F.relu(norm(conv(part.spatial[0], x)))
        temporal = F.relu(norm(conv(part.temporal[0], x)))
        u = gate(part.excitation.spatial, spatial, 2)  # Eq. (6)
        v = gate(part.excitation.temporal, temporal, (3, 4))  # Eq. (7)
        return gate(part.excitation.channel, u + v, (3, 4))  # Eq. (8)

    expected = sub_operation(module.sub_operations[0], x)
    expected = F.relu(norm(conv(module.pointwise[0][0], expected)))
    shuffled = [c2 * 4 + c1 for c1 in range(4) for c2 in range(3)]  # neighbours now differ in c_2
    expected = sub_operation(module.sub_operations[1], expected[:, shuffled])
    expected = expected[:, torch.tensor(shuffled).argsort()]
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


def reached(module, channel):
    """Which output channels change with one input channel."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.eval()
    x = torch.rand(1, module.sub_operations[0].spatial[0].channels, 3, 4, 4, dtype=torch.double) + 0.5
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.1)
    module = module.double()
    other = x.clone()
    other[:, channel] += 1
    changed = (module(x) - module(other)).abs().flatten(2).sum(2)[0] > 1e-9
    return set(changed.nonzero().flatten().tolist())


def test_channels_interact_progressively():
    """After sub-operation 1 a channel has met C_1 channels, after 2 all C_1 * C_2 = C."""
    both = CTModule(12, (4, 3), pointwise=False, excitation="none")
    assert reached(both, 5) == set(range(12))
    first = CTModule(12, (4, 3), pointwise=False, excitation="none")
    first.sub_operations, first.dims = first.sub_operations[:1], (12,)
    assert reached(first, 5) == {4, 5, 6, 7}
    second = CTModule(12, (4, 3), pointwise=False, excitation="none")
    second.sub_operations[0] = nn.Identity()
    second.sub_operations[0].spatial = [second.sub_operations[1].spatial[0]]
    assert reached(second, 5) == {1, 5, 9}  # equal c_1


def test_pointwise_convolutions_are_between_sub_operations_only():
    assert [len(CTModule(16, k).pointwise) for k in (1, 2, 3)] == [0, 1, 2]
    assert len(CTModule(16, 3, pointwise=False).pointwise) == 0


def test_kernels_one_for_each_sub_operation():
    module = CTModule(16, 2, kernels=[(1, 1, 1), (5, 5, 5)], excitation="none")
    sizes = [(part.spatial[0].kernel_size, part.temporal[0].kernel_size) for part in module.sub_operations]
    assert sizes == [((1, 1, 1), (1, 1, 1)), ((1, 5, 5), (5, 1, 1))]


def test_channels_may_change():
    module = CTModule(18, (4, 3), out_channels=12)
    assert module(torch.randn(2, 18, 2, 4, 4)).shape == (2, 12, 2, 4, 4)
    serial = CTModule(18, (4, 3), connection="serial", out_channels=12)
    assert serial(torch.randn(2, 18, 2, 4, 4)).shape == (2, 12, 2, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"connection": "paralel"}, "unknown connection 'paralel': did you mean 'parallel'"),
        ({"excitation": "SE"}, "unknown excitation 'SE'"),
        ({"connection": "coupling"}, "needs separate spatial and temporal features"),
        ({"kernels": [(3, 3, 3)]}, "2 sub-dimensions need as many kernels, got 1"),
        ({"kernels": (3, 3)}, r"a kernel has three extents \(t, h, w\), got \(3, 3\)"),
        ({"kernels": [(3, 3), (3, 3)]}, "a kernel has three extents"),
        ({"dims": (8, 4)}, "multiply to 32, needed 16"),
        ({"out_channels": 24}, "16 input channels do not divide into the 6 groups"),
    ],
)
def test_refusals(arguments, text):
    if "out_channels" in arguments:
        arguments = {**arguments, "dims": (4, 6)}
    with pytest.raises(ValueError, match=text):
        CTModule(16, **arguments)


# C3D, R(2+1)D and CSN as plain layers: kernel and groups of each convolution, at 12 channels.
PLAIN = {
    "c3d": [((3, 3, 3), 1)],
    "r2plus1d": [((1, 3, 3), 1), ((3, 1, 1), 1)],
    "csn": [((1, 1, 1), 1), ((3, 3, 3), 12)],
}


@pytest.mark.parametrize("name", SPECIAL_CASES)
@pytest.mark.parametrize("channels", [12, 8])
def test_c3d_r2plus1d_and_csn_are_plain_layers(name, channels):
    torch.manual_seed(0)
    plain, width = nn.Sequential(), channels
    for kernel, groups in PLAIN[name]:
        conv = nn.Conv3d(width, 12, kernel, padding=[extent // 2 for extent in kernel], groups=groups, bias=False)
        plain.extend([conv, nn.BatchNorm3d(12), nn.ReLU()])
        width = 12
    plain = plain.double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    module = special_case(name, channels, 12).double()
    module.load_state_dict(dict(zip(module.state_dict(), plain.state_dict().values(), strict=True)))
    clips = torch.randn(2, channels, 5, 6, 8, dtype=torch.double)
    for training in (True, False):
        expected = plain.train(training)(clips)
        torch.testing.assert_close(module.train(training)(clips), expected, rtol=1e-12, atol=1e-12)
    (module(clips) * torch.randn_like(expected)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("excitation", ["none", "te"])
def test_gradients_copy_no_features(excitation):
    """What changes a view in place is a `CopySlices` to autograd, which copies the whole of what is viewed."""
    out = CTModule(16, excitation=excitation)(torch.zeros(1, 16, 2, 4, 4))
    steps, todo = set(), [out.grad_fn]
    while todo:
        step = todo.pop()
        if step is not None and step not in steps:
            steps.add(step)
            todo += [earlier for earlier, _ in step.next_functions]
    names = {step.name() for step in steps}
    assert any("ReluBackward" in name for name in names) and "CopySlices" not in names
