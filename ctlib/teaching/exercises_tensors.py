"""The exercises of notebooks 1 and 2, each in one place: question, solution and check (`answers.Exercise`)."""

import math

import torch

from ctlib.teaching.answers import Exercise, NotYet, expect, given, plain
from ctlib.tensorize import TensorSeparableConv, resolve_dims, rotate

# ---------------------------------------------------------------- 1: channel tensorization


def _check_1_1(answers: dict) -> str:
    expect(
        answers["channel"], 9, {5: "5 = c_1 * C_2 + c_2: that has c_2 running fastest; here c_1 does"},
        "{value} is not c_2 * C_1 + c_1 with c_1 = 1, c_2 = 2 and C_1 = 4",
    )  # fmt: skip
    expect(
        answers["coordinates"], (2, 1),
        {(1, 2): "You have c_2 first: asked is (c_1, c_2)", (2, 0): "You divided by C_2, not by C_1 = 4"},
        "{value}: c_1 is the rest of 6 divided by C_1, c_2 the quotient",
    )  # fmt: skip
    return "divmod(c, C_1) gives (c_2, c_1)."


def _check_1_2(answers: dict) -> str:
    turn = answers["turn"]
    for channels, size, more in ((6, 3, ()), (12, 4, (2, 3, 3)), (24, 2, (1,))):
        x = torch.arange(2.0 * channels * math.prod(more)).view(2, channels, *more)
        found = given(turn(x, size))
        if found.shape != x.shape:
            raise NotYet(f"(N, C, ...) = {tuple(x.shape)} became {tuple(found.shape)}: merge the two axes again")
        if torch.equal(found, x):
            raise NotYet("The order is as it was: `unflatten` and `flatten` move nothing, `transpose` does")
        if torch.equal(found, rotate(x, channels // size)):
            raise NotYet("That turns the grid the other way: split C into (C // size, size), not (size, C // size)")
        if not torch.equal(found, rotate(x, size)):
            raise NotYet(f"{channels} channels with size {size} came out in an order that is no turn of the grid")
    return "The same as ctlib.tensorize.rotate."


def _check_1_3(answers: dict) -> str:
    module, channels, sizes = answers["ct_module"], 12, (4, 3)
    first, second = convolutions = [TensorSeparableConv(channels, size, (1, 1, 1)) for size in sizes]
    x = torch.eye(channels)[:, :, None, None, None]
    known = {  # what is done one after the other, a number being a turn
        (first, 4, second, 3): "",
        (first, second): "It never turns the grid, so both sub-operations mix the same neighbours",
        (first, second, 3): "It turns the grid only at the end: after the first sub-operation it must turn too, "
        "else both mix the same neighbours",
        (first, 4, second): "All channels interact, but they come out in another order: turn once more at the end",
        (first, 3, second, 4): "It turns by the wrong size: what was just mixed runs fastest, so turn by its own size",
        (4, first, 3, second): "It turns before it mixes: the first sub-operation is of the channels as they come",
    }
    with torch.no_grad():
        for conv in convolutions:  # all weights differ, so that no two orders of the steps agree
            conv.weight.copy_(torch.linspace(1, 2, conv.weight.numel()).view_as(conv.weight))
        found = given(module(x, convolutions, sizes))
        if found.shape != x.shape:
            raise NotYet(f"(N, C, T, H, W) = {tuple(x.shape)} became {tuple(found.shape)}")
        for steps, why in known.items():
            done = x
            for step in steps:
                done = rotate(done, step) if isinstance(step, int) else step(done)
            if torch.allclose(found, done):
                if why:
                    raise NotYet(why)
                return "As many turns as sub-operations; the last brings the channels home: the residual needs that."
    reached = found[:, 0].count_nonzero().item()
    raise NotYet(
        f"Output 0 sees {reached} of {channels} channels, and the result is not that of: first sub-operation, turn by "
        f"{sizes[0]}, second, turn by {sizes[1]}"
    )


def _check_1_4(answers: dict) -> str:
    expect(
        answers["weights"], 128 * 16 * 9,
        {
            16 * 16 * 9: "That is one group; there are C / C_1 = 8, each with weights of its own",
            128 * 128 * 9: "That is the dense convolution: an output mixes C_1 = 16 channels, not 128",
            128 * 8 * 9: "That mixes C_2 = 8 channels: the first sub-operation mixes C_1 = 16",
        },
        "{value}: count the inputs of one output channel, times its 1 x 3 x 3 positions, times the output channels",
    )  # fmt: skip
    expect(
        answers["share"], 12.5, {0.125: "0.125 of it: asked is the share in percent"},
        "The share of the dense 1 x 3 x 3 convolution is not {value} %: C and the positions cancel",
    )  # fmt: skip
    return "The share is C_1 / C, whatever the kernel."


def _check_1_5(answers: dict) -> str:
    dims = plain(given(answers["dims"]))
    if not isinstance(dims, tuple):
        raise NotYet(f"`dims` are the sizes (C_1, ..., C_K), got {dims!r}")
    try:
        dims = resolve_dims(120, dims)
    except (ValueError, TypeError) as error:
        raise NotYet(str(error)) from None
    if math.prod(dims) != 120 or min(dims) < 4:
        raise NotYet(f"Each size must be at least 4 and their product 120, got {dims}")
    if sum(dims) > 0.7 * 22:
        raise NotYet(f"The sizes add up to {sum(dims)}: more than 70 % of 12 + 10. More sub-dimensions are smaller")
    return f"{' + '.join(map(str, dims))} = {sum(dims)}. Four sizes of at least 4 have a product of 256 or more."


# ---------------------------------------------------------------- 2: interaction


def _check_2_1(answers: dict) -> str:
    extent = answers["extent"]
    for num_dims, kernel in ((1, 3), (2, 3), (4, 3), (2, 5), (3, 1)):
        expect(
            extent(num_dims, kernel), num_dims * (kernel - 1) + 1,
            {num_dims * kernel: f"K = {num_dims}, kernel {kernel}: K * kernel counts the middle {num_dims} times"},
            f"K = {num_dims}, kernel {kernel}: {num_dims * (kernel - 1) + 1} positions, your function says {{value}}",
        )  # fmt: skip
    return "Each sub-operation adds (kernel - 1) / 2 to either side; with 3 that is the paper's 2K + 1."


def _check_2_2(answers: dict) -> str:
    expect(
        answers["positions"], 65,
        {
            45: "That is for kernels of 3 x 3 x 3: here the line has 5 frames",
            225: "That is the whole box, 9 x 5 x 5: a plane and a line do not fill it",
            26: "2 * 13: but the second sub-operation starts from each of the 13 positions of the first",
            169: "13 * 13 counts ways, many of which end at the same position",
        },
        "Not {value}. Two planes give a plane (5 x 5), two lines a line; a plane and a line give a thick plane",
    )  # fmt: skip
    return "25 in the middle plane, 9 in each of the 4 planes beside it, 1 in each of the 4 beyond: 25 + 4 * 9 + 4 * 1."


def _check_2_3(answers: dict) -> str:
    reached = answers["reached"]
    plane = {(0, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    line = {(t, 0, 0) for t in (-1, 0, 1)}
    for steps in (line, plane | line):
        right = {(0, 0, 0)}
        for times in (1, 2, 3):
            right = {tuple(map(sum, zip(a, b, strict=True))) for a in right for b in steps}
            found = set(plain(list(given(reached(steps, times)))))
            if (0, 0, 0) not in found:
                raise NotYet("The output's own position is not there: begin with {(0, 0, 0)}")
            if found == steps != right:
                raise NotYet(f"After {times} sub-operations you are where one took you: go on from what was reached")
            which = f"{times} sub-operations of {len(steps)} steps"
            if len(found) != len(right):
                raise NotYet(f"{which} reach {len(right)} positions, not {len(found)}")
            if found != right:
                raise NotYet(f"{which}: the number is right, but {min(found - right)} is not reached")
    return "A sum of sets (Minkowski's); counted with how often, it is a convolution."


def _check_2_4(answers: dict) -> str:
    right = {"C3D": ["STC"], "R(2+1)D": ["SC", "TC"], "CSN": ["C", "ST"], "CT-Module": ["STC", "STC"]}
    manner = given(answers["manner"])
    what = {"S": "pixels around", "T": "frames around", "C": "other channels"}
    for name, parts in right.items():
        if name not in manner:
            raise NotYet(f"{name} is not in `manner`")
        found = given(manner[name])
        found = [found] if isinstance(found, str) else list(found)
        if len(found) != len(parts):
            raise NotYet(f"{name} has {len(parts)} convolution(s) or sub-operations, you list {len(found)}: {found}")
        for number, (mine, theirs) in enumerate(zip(found, parts, strict=True), start=1):
            letters = {letter.upper() for letter in given(mine)}
            if not letters <= what.keys():
                raise NotYet(f"{name}, part {number}: the letters are S, T and C, you have {mine!r}")
            for letter, mixed in what.items():
                if letter in theirs and letter not in letters:
                    raise NotYet(f"{name}, part {number}: it mixes {mixed} too, {letter} is missing")
                if letter in letters and letter not in theirs:
                    raise NotYet(f"{name}, part {number}: it does not mix {mixed}, {letter} is too much")
    return "Only the CT-Module has all three in every part, without the price of C3D."


def _check_2_5(answers: dict) -> str:
    kernels = plain(given(answers["kernels"]))
    shaped = isinstance(kernels, tuple) and [isinstance(kernel, tuple) and len(kernel) for kernel in kernels] == [3, 3]
    if not shaped or any(k < 1 or k % 2 == 0 for kernel in kernels for k in kernel):
        raise NotYet(f"Needed are two kernels (t, h, w) of odd extents, got {kernels}")
    box = [1 + sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3)]
    products = sum(64 * 8 * (h * w + t) for t, h, w in kernels)
    if box[0] < 9 or min(box[1:]) < 5:
        raise NotYet(f"The box is {box[0]} x {box[1]} x {box[2]}: needed are 9 frames and 5 x 5 pixels")
    if products > 14_400:
        raise NotYet(f"{products:,} products a position: more than 14,400. Frames cost t, pixels h * w")
    return f"{products:,} products a position. Time is the cheap direction: parallel adds t to h * w."


EXERCISES = {
    "1.1": Exercise(
        "recall",
        """C = 12 channels are read as $C_1 \\times C_2 = 4 \\times 3$, counted from 0. Which channel stands
at $c_1 = 1$, $c_2 = 2$? And at which coordinates $(c_1, c_2)$ stands channel 6?""",
        """
channel = 2 * 4 + 1  # to fill in
coordinates = (2, 1)  # to fill in
""",
        _check_1_1,
    ),
    "1.2": Exercise(
        "build",
        """Turn the grid without `ctlib`: x is (N, C, ...), a sub-dimension of `size` runs fastest and is to
become the slowest. One line of `unflatten`, `transpose` and `flatten` will do.""",
        """
def turn(x, size):
    return x.unflatten(1, (-1, size)).transpose(1, 2).flatten(1, 2)  # to fill in
""",
        _check_1_2,
    ),
    "1.3": Exercise(
        "repair",
        """This module forgets something, so that all its sub-operations mix the same neighbours. Mend the
second line of the loop. `convolutions` are K tensor separable convolutions that mix the fastest-running
sub-dimension; `sizes` has the size of each; `rotate(x, size)` is at hand.""",
        """
def ct_module(x, convolutions, sizes):
    for conv, size in zip(convolutions, sizes, strict=True):
        x = conv(x)
        x = rotate(x, size)  # to mend: rotate(x, size) if conv is convolutions[-1] else x
    return x
""",
        _check_1_3,
    ),
    "1.4": Exercise(
        "predict",
        """A spatial tensor separable convolution: C = 128, $C_1 = 16$, kernel 1 x 3 x 3, no bias. How many
weights has it, and what share, in percent, of those of a dense 1 x 3 x 3 convolution?""",
        """
weights = 128 * 16 * 9  # to fill in
share = 100 * 16 / 128  # to fill in
""",
        _check_1_4,
    ),
    "1.5": Exercise(
        "open",
        """C = 120. The cheapest split in two is 12 x 10. Find `dims` that take at most 70 % of its products a
position, while every size stays at least 4. Then argue: what changes with K besides the products, and would
you expect accuracy to follow? In the paper's Table 2b accuracy rises to K = 2 and falls after.""",
        """
dims = (6, 5, 4)  # to fill in
""",
        _check_1_5,
    ),
    "2.1": Exercise(
        "recall",
        """K sub-operations, each with an odd kernel of `kernel` positions along one axis. How far does the
field extend along this axis?""",
        """
def extent(num_dims, kernel):
    return num_dims * (kernel - 1) + 1  # to fill in
""",
        _check_2_1,
    ),
    "2.2": Exercise(
        "predict",
        """A sub-operation of the parallel connection with a kernel of 5 x 3 x 3 reaches 13 positions: a plane of
3 x 3 and a line of 5 frames that share one. How many do two reach, one after the other? Sketch it before you
type.""",
        """
positions = 65  # to fill in
""",
        _check_2_2,
    ),
    "2.3": Exercise(
        "build",
        """`steps` is a set of offsets (t, y, x) that one sub-operation reaches. Give the set that `times` of
them reach. `{tuple(map(sum, zip(a, b))) for a in A for b in B}` is a way to add every a to every b.""",
        """
def reached(steps, times):
    places = {(0, 0, 0)}
    for _ in range(times):
        places = {tuple(map(sum, zip(a, b))) for a in places for b in steps}  # to fill in
    return places
""",
        _check_2_3,
    ),
    "2.4": Exercise(
        "apply",
        """The "interact manner" of Table 1: for each part of a module, in turn, the letters of what it lets
interact, S (pixels around), T (frames around), C (channels). The CT-Module with K = 2.""",
        """
c3d = ["STC"]  # to fill in
r2plus1d = ["SC", "TC"]  # to fill in
csn = ["C", "ST"]  # to fill in
ct = ["STC", "STC"]  # to fill in
manner = {"C3D": c3d, "R(2+1)D": r2plus1d, "CSN": csn, "CT-Module": ct}
""",
        _check_2_4,
    ),
    "2.5": Exercise(
        "open",
        """C = 64 = 8 x 8, parallel. With 3 x 3 x 3 kernels a position costs 12,288 products, and the box is 5
x 5 x 5. Find two kernels whose box holds 9 frames and 5 x 5 pixels for at most 14,400. Then argue: seven such
modules stand in a network whose clips have 8 frames. What is left to gain in time, and what in space (Table
2f)?""",
        """
kernels = ((5, 3, 3), (5, 3, 3))  # to fill in
""",
        _check_2_5,
    ),
}
