"""The exercises of notebooks 1 and 2, each in one place: question, solution and check (`answers.Exercise`)."""

import math

import torch

from ctlib.teaching.answers import Exercise, NotYet, expect, given
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
    expect(
        answers["weights"], 128 * 16 * 9,
        {
            16 * 16 * 9: "That is one group; there are C / C_1 = 8, each with weights of its own",
            128 * 128 * 9: "That is the dense convolution: an output mixes C_1 = 16 channels, not 128",
            128 * 8 * 9: "That mixes C_2 = 8 channels: the first sub-operation mixes C_1 = 16",
        },
        "{value}: count the inputs of one output channel, times its 1 x 3 x 3 positions, times the output channels",
    )  # fmt: skip
    share = given(answers["share"])
    if not math.isclose(share, 12.5):
        raise NotYet(f"The share of the dense 1 x 3 x 3 convolution is not {share} %: C and the positions cancel")
    return "The share is C_1 / C, whatever the kernel."


def _check_1_3(answers: dict) -> str:
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


def _check_1_4(answers: dict) -> str:
    module, channels, sizes = answers["ct_module"], 12, (4, 3)
    convolutions = [TensorSeparableConv(channels, size, (1, 1, 1)) for size in sizes]
    one_hot = torch.eye(channels)[:, :, None, None, None]
    with torch.no_grad():
        for conv in convolutions:
            conv.weight.fill_(1)
        reached = given(module(one_hot, convolutions, sizes))[:, 0].count_nonzero().item()
        if reached < channels:
            raise NotYet(
                f"Output 0 sees {reached} of {channels} channels: the grid must turn after the first sub-operation, "
                "else both mix the same neighbours"
            )
        for conv, size in zip(convolutions, sizes, strict=True):  # each channel passes unchanged
            conv.weight.copy_(torch.eye(size).repeat(channels // size, 1)[:, :, None, None, None])
        order = module(one_hot, convolutions, sizes).flatten(1)
    if not torch.equal(order, torch.eye(channels)):
        raise NotYet("All channels interact, but they come out in another order: turn once more at the end")
    return "As many turns as sub-operations, and the last brings the channels home: the residual addition needs that."


def _check_1_5(answers: dict) -> str:
    dims = given(answers["dims"])
    try:
        dims = resolve_dims(120, tuple(dims))
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
        found, right = given(extent(num_dims, kernel)), num_dims * (kernel - 1) + 1
        if found == num_dims * kernel != right:
            raise NotYet(f"K = {num_dims}, kernel {kernel}: {found} = K * kernel counts the middle {num_dims} times")
        if found != right:
            raise NotYet(f"K = {num_dims}, kernel {kernel}: {right} positions, your function says {found}")
    return "Each sub-operation adds (kernel - 1) / 2 to either side; with 3 that is the paper's 2K + 1."


def _check_2_2(answers: dict) -> str:
    expect(
        answers["positions"], 45,
        {
            125: "That is the whole box: a plane and a line do not fill it",
            22: "2 * 11: but the second sub-operation starts from each of the 11 positions of the first",
            121: "11 * 11 counts ways, many of which end at the same position",
        },
        "Not {value}. Two planes give a plane (5 x 5), two lines a line; a plane and a line give a thick plane",
    )  # fmt: skip
    return "25 in the middle plane, 9 in each of the planes beside it, 1 at each end: 25 + 2 * 9 + 2 * 1."


def _check_2_3(answers: dict) -> str:
    reached = answers["reached"]
    plane = {(0, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    line = {(t, 0, 0) for t in (-1, 0, 1)}
    for steps, counts in ((line, (3, 5, 7)), (plane | line, (11, 45, 119))):
        for times, right in enumerate(counts, start=1):
            found = set(given(reached(steps, times)))
            if (0, 0, 0) not in found:
                raise NotYet("The output's own position is not there: begin with {(0, 0, 0)}")
            if len(found) == len(steps) < right:
                raise NotYet(f"After {times} sub-operations you are where one took you: go on from what was reached")
            if len(found) != right:
                raise NotYet(f"{times} sub-operations of {len(steps)} steps reach {right} positions, not {len(found)}")
    return "A sum of sets (Minkowski's); counted with how often, it is a convolution."


def _check_2_4(answers: dict) -> str:
    right = {"C3D": ["STC"], "R(2+1)D": ["SC", "TC"], "CSN": ["C", "ST"], "CT-Module": ["STC", "STC"]}
    manner = given(answers["manner"])
    what = {"S": "pixels around", "T": "frames around", "C": "other channels"}
    for name, parts in right.items():
        found = given(given(manner)[name])
        if len(found) != len(parts):
            raise NotYet(f"{name} has {len(parts)} convolution(s) or sub-operations, you list {len(found)}")
        for number, (mine, theirs) in enumerate(zip(found, parts, strict=True), start=1):
            for letter, mixed in what.items():
                if letter in theirs and letter not in mine:
                    raise NotYet(f"{name}, part {number}: it mixes {mixed} too, {letter} is missing")
                if letter in mine and letter not in theirs:
                    raise NotYet(f"{name}, part {number}: it does not mix {mixed}, {letter} is too much")
    return "Only the CT-Module has all three in every part, without the price of C3D."


def _check_2_5(answers: dict) -> str:
    kernels = given(answers["kernels"])
    if len(kernels) != 2 or any(len(kernel) != 3 or any(k < 1 or k % 2 == 0 for k in kernel) for kernel in kernels):
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
        "predict",
        """A spatial tensor separable convolution: C = 128, $C_1 = 16$, kernel 1 x 3 x 3, no bias. How many
weights has it, and what share, in percent, of those of a dense 1 x 3 x 3 convolution?""",
        """
weights = 128 * 16 * 9  # to fill in
share = 100 * 16 / 128  # to fill in
""",
        _check_1_2,
    ),
    "1.3": Exercise(
        "build",
        """Turn the grid without `ctlib`: x is (N, C, ...), a sub-dimension of `size` runs fastest and is to
become the slowest. One line of `unflatten`, `transpose` and `flatten` will do.""",
        """
def turn(x, size):
    return x.unflatten(1, (-1, size)).transpose(1, 2).flatten(1, 2)  # to fill in
""",
        _check_1_3,
    ),
    "1.4": Exercise(
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
        """One sub-operation of the parallel connection reaches 11 positions: a plane of 3 x 3 and a line of 3
that share one. How many do two reach, one after the other? Sketch it before you type (and before you read
on).""",
        """
positions = 45  # to fill in
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
