import os
import subprocess
import sys

import pytest

from tests.kernels.folded_excitation import equal_in


def test_with_the_biases_apart_a_folded_sub_operation_is_the_same():
    equal_in("plain")


@pytest.mark.slow
def test_four_kernels_for_one_clip_give_what_the_sub_operation_gave():
    """Through Triton's interpreter, which must be asked for before Triton is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.kernels.folded_excitation"]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "groups of 6 channels and of 2 in a gate are not both powers of two",
        "['one clip', 'plain', 'triton'] ['plain', 'triton']",
    ]


@pytest.mark.slow
def test_the_kernels_compile_for_an_h100():
    """Without one: Triton brings its compiler."""
    pytest.importorskip("triton")
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from ctlib.kernels import one_clip_triton as kernels
    from ctlib.kernels import passes_triton as passes

    def check(function, features, **constants):
        names = function.arg_names
        types = {name: "*fp32" if number < features else "i32" for number, name in enumerate(names)}
        types |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(function, types, {(names.index(name),): value for name, value in constants.items()})
        assert "sm_90" in compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

    sizes = {"SIZE": 16, "HIDDEN": 4, "PIXELS": 64, "SUM": tl.float32}
    check(kernels._means, 6, PIXELS=64, CHANNELS=32, SUM=tl.float32)
    check(kernels._hidden, 9, **sizes, FRAMES=8, BLOCKS=16)
    check(kernels._gates, 9, **sizes, FRAMES=8)
    check(kernels._combine, 12, **sizes, BLOCKS=16)
    block = {"BLOCK": passes.BLOCK, "SUM": tl.float32}
    pixels = {"PIXELS": passes.PIXELS, "CHANNELS": passes.CHANNELS, "SUM": tl.float32}
    check(passes._average_over_frames, 2, **block)
    check(passes._average_over_pixels, 3, GATED=True, **pixels)
    check(passes._combine, 6, **block)
    check(passes._sums, 6, **pixels)
    check(passes._map_gradient, 5, **block)
    check(passes._branch_gradients, 11, **block)
