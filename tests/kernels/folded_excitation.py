"""What holds of an excited sub-operation that is folded, in every way; run as a script, of `one_clip_triton`."""

import torch
from torch import nn

from ctlib import deploy
from ctlib.ct_module import Parallel
from ctlib.kernels import BATCH_NORMS, choice, folded

SMALL = (2, 16, 8, 3, 5, 7), (1, 32, 16, 1, 3, 2)  # N, C, C_k, T, H, W
LARGE = (1, 64, 8, 8, 56, 56), (1, 512, 32, 8, 7, 7), (3, 64, 16, 3, 20, 20)


def folded_and_expected(shape, device="cpu", dtype=torch.double):
    """A folded sub-operation, a clip for it, and what the sub-operation gave before in double precision."""
    torch.manual_seed(0)
    n, channels, size, *extents = shape
    part = Parallel(channels, size, (3, 3, 3), "te").double().eval()
    for norm in (module for module in part.modules() if isinstance(module, BATCH_NORMS)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1)
        nn.init.normal_(norm.bias, 0, 0.3)
    clips = torch.randn(n, channels, *extents, dtype=torch.double).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        expected = part(clips)
        folded.fold_batch_norms(part)
        return deploy._folded_sub_operation(part).to(device, dtype), clips.to(device, dtype), expected


def equal_in(way: str, device="cpu", dtype=torch.double, rtol=1e-10, shapes=SMALL) -> None:
    """Whatever would be chosen, this way is taken."""
    devices, fastest = choice.DEVICES, choice.fastest
    taken = []

    def take(operation, ways, *inputs):
        is_excitation = operation.startswith("folded excitation")
        taken.append(is_excitation)
        return way if is_excitation else next(iter(ways))

    choice.DEVICES, choice.fastest = {device}, take
    try:
        for shape in shapes:
            part, clips, expected = folded_and_expected(shape, device, dtype)
            with torch.no_grad():
                found = part(clips)
            assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last_3d)
            assert (found.double().cpu() - expected).norm() <= rtol * expected.norm()
    finally:
        choice.DEVICES, choice.fastest = devices, fastest
    assert any(taken)


if __name__ == "__main__":
    equal_in("one clip")
    equal_in("one clip", dtype=torch.float32, rtol=1e-5, shapes=SMALL[1:])
    equal_in("one clip", dtype=torch.bfloat16, rtol=0.02, shapes=SMALL[1:])
    part, clips, _ = folded_and_expected((1, 24, 6, 2, 4, 4))
    try:
        part._one_clip(clips, clips)
    except ValueError as error:
        print(error)
    print(sorted(part.ways(with_gradients=False)), sorted(part.ways(with_gradients=True)))
