"""What holds of every implementation of the passes of Tensor Excitation; run as a script, of Triton's."""

from functools import partial

import torch

from ctlib.excitation import TensorExcitation
from ctlib.kernels.gating import excite_plain
from ctlib.kernels.passes import Passes, excite_in_passes


def features(*shape, dtype=torch.double):
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last_3d).requires_grad_()


def excited(way, spatial, temporal, excitation, upstream):
    """The output, and gradients of both branches and of the gates' parameters, with equal batch norms before."""
    state = {name: value.clone() for name, value in excitation.state_dict().items()}
    out = way(spatial, temporal, excitation.gates())
    learned = [spatial, temporal, *excitation.parameters()]
    gradients = torch.autograd.grad(out, learned, upstream, retain_graph=True)
    for again, before in zip(torch.autograd.grad(out, learned, upstream), gradients, strict=True):
        assert torch.equal(again, before)
    statistics = [value.clone() for name, value in excitation.state_dict().items() if "running" in name]
    excitation.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(way(spatial, temporal, excitation.gates()), out)
    excitation.load_state_dict(state)
    return [out, *gradients, *statistics]


def same_in_double_precision(passes: Passes) -> None:
    for shape in ((2, 16, 3, 6, 5), (2, 16, 1, 1, 1), (2, 72, 2, 7, 9)):
        torch.manual_seed(0)
        excitation = TensorExcitation(shape[1], 8).double()
        given = features(*shape), features(*shape), excitation, torch.randn(shape, dtype=torch.double)
        expected = excited(excite_plain, *given)
        for found, wanted in zip(excited(partial(excite_in_passes, passes=passes), *given), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def nan_stays_nan(passes: Passes) -> None:
    spatial, temporal = features(1, 16, 2, 3, 3), features(1, 16, 2, 3, 3)
    with torch.no_grad():
        spatial[0, 0, 0, 0, 0] = float("nan")
        assert (
            excite_in_passes(spatial, temporal, TensorExcitation(16, 8).double().eval().gates(), passes).isnan().any()
        )


def as_close_in_half_precision(passes: Passes) -> None:
    """Under autocast the error is at most 1.5 times that of the plain way, plus 0.005 of the exact result's norm."""
    torch.manual_seed(0)
    shape = (2, 32, 4, 8, 8)
    excitation, single = TensorExcitation(32, 8).double(), TensorExcitation(32, 8)
    single.load_state_dict(excitation.state_dict())
    exact = features(*shape), features(*shape), excitation, torch.randn(shape, dtype=torch.double)
    half = *(x.detach().bfloat16().requires_grad_() for x in exact[:2]), single, exact[3].bfloat16()

    def in_half(way, *given):
        with torch.autocast(given[0].device.type, torch.bfloat16):
            return way(*given)

    wanted, plain = excited(excite_plain, *exact), excited(partial(in_half, excite_plain), *half)
    in_passes = excited(partial(in_half, partial(excite_in_passes, passes=passes)), *half)
    for found, as_plain, exactly in zip(in_passes, plain, wanted, strict=True):
        assert found.dtype == as_plain.dtype
        assert (found - exactly).norm() <= 1.5 * (as_plain - exactly).norm() + 0.005 * exactly.norm()


if __name__ == "__main__":
    from ctlib.kernels.passes_triton import TRITON

    same_in_double_precision(TRITON)
    as_close_in_half_precision(TRITON)
    nan_stays_nan(TRITON)
    print("equal")
