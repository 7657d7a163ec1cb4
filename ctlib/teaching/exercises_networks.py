"""The exercises of notebooks 3 to 5, each in one place: question, solution and check (`answers.Exercise`)."""

import torch

from ctlib.config import ModelConfig
from ctlib.excitation import TensorExcitation
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.teaching import anatomy
from ctlib.teaching.answers import Exercise, NotYet, expect, given, plain, same

# ---------------------------------------------------------------- 3: Tensor Excitation


def _check_3_1(answers: dict) -> str:
    right = {"spatial": (8, 1, 6, 6), "temporal": (8, 4, 1, 1), "channel": (8, 4, 1, 1), "SE": (8, 1, 1, 1)}
    shapes = given(answers["shapes"])
    for gate, shape in right.items():
        found = tuple(given(given(shapes[gate])))
        if len(found) != 4:
            raise NotYet(f"{gate}: a shape is (C, T, H, W), four numbers, got {found}")
        for axis, mine, theirs in zip(("C", "T", "H", "W"), found, shape, strict=True):
            if mine != theirs:
                why = "averaged over, so 1 is left" if theirs == 1 else "kept"
                raise NotYet(f"{gate}: {axis} is {why}; you have {mine}")
    return "The channel gate keeps time: the paper's S-Pool averages over H and W only. SE keeps nothing but C."


def _check_3_2(answers: dict) -> str:
    torch.manual_seed(0)
    gate, x = answers["spatial_gate"], torch.rand(2, 4, 3, 5, 5)
    seen = []

    def attend(pooled):
        seen.append(pooled.clone())
        return pooled - 0.5

    found = given(gate(x.clone(), attend))  # a copy: writing in place is allowed
    if not seen:
        raise NotYet("`attend` (the two convolutions) is never called")
    got, pooled = tuple(seen[0].shape), x.mean(2, keepdim=True)
    if got == tuple(x.shape):
        raise NotYet("`attend` got the whole clip: pool over time first, axis 2 of (N, C, T, H, W)")
    if got != (2, 4, 1, 5, 5):
        raise NotYet(f"`attend` got {got}, needed (2, 4, 1, 5, 5): T-Pool averages axis 2 and keeps it as 1")
    if torch.allclose(seen[0], pooled.sigmoid()):
        raise NotYet("The sigmoid is inside `attend`: it takes what the convolutions give, not what they get")
    if not torch.allclose(seen[0], pooled):
        raise NotYet("`attend` got the right shape, but not the mean over time: T-Pool is an average")
    right = x * (pooled - 0.5).sigmoid()
    if found.shape == pooled.shape:
        raise NotYet("That is the attention alone: it multiplies the features")
    if torch.allclose(found, x * (pooled - 0.5)):
        raise NotYet("The sigmoid is missing: a gate lies between 0 and 1")
    if found.shape != x.shape or not torch.allclose(found, right):
        raise NotYet("Not x * sigmoid(attend(T-Pool(x))): compare with Eq. (6)")
    return "Eq. (6); broadcasting spreads the one map over all frames."


def _check_3_3(answers: dict) -> str:
    order = [str(given(part)).strip().lower() for part in given(answers["blind"])]
    right = {"spatial": "order of frames", "temporal": "place in the map", "channel": "place in the map"}
    if len(order) != 3:
        raise NotYet(
            f"Three answers are needed, for the spatial, temporal and channel gate in turn; you give {len(order)}"
        )
    for (gate, blind), mine in zip(right.items(), order, strict=True):
        if mine not in right.values():
            raise NotYet(f"The {gate} gate: {mine!r} is neither 'order of frames' nor 'place in the map'")
        if mine != blind:
            raise NotYet(f"The {gate} gate averages over {'T' if gate == 'spatial' else 'H and W'}: what is lost then?")
    return "What is averaged over cannot be told apart. The experiment below asks the gates themselves."


def _check_3_4(answers: dict) -> str:
    torch.manual_seed(0)
    x, excitation = torch.rand(2, 8, 6, 5, 5), TensorExcitation(8, size=4).eval()
    changed = given(answers["unseen"](x.clone()))
    if not isinstance(changed, torch.Tensor) or changed.shape != x.shape:
        raise NotYet(f"Features of the same shape are needed, (N, C, T, H, W) = {tuple(x.shape)}")
    if (changed - x).abs().max() < 0.01:
        raise NotYet("Nothing has changed: the gates must miss something that is there")
    for name, lost in (
        ("spatial", "for every pixel the mean over T"),
        ("temporal", "for every frame the mean over H, W"),
    ):
        gate = getattr(excitation, name)
        with torch.no_grad():
            if not torch.allclose(gate.attention(x), gate.attention(changed), atol=1e-5):
                raise NotYet(f"The {name} gate sees it: {lost} has to stay as it was")
    return (
        "Neither pooling sees it, so no gate does. A pattern that moves can be such a change: what a gate cannot see, "
        "the convolutions before it must."
    )


# ---------------------------------------------------------------- 4: from block to network


def _check_4_1(answers: dict) -> str:
    right = (1,), (1, 3), (1, 3, 5), (1,)
    blocks = [plain(given(part)) for part in given(answers["blocks"])]
    if len(blocks) != len(right):
        raise NotYet(f"ResNet has four stages of blocks, 2 to 5; you give {len(blocks)}")
    for number, depth, found, theirs in zip((2, 3, 4, 5), (3, 4, 6, 3), blocks, right, strict=True):
        if not isinstance(found, tuple):
            raise NotYet(f"Stage {number}: {found!r} is no tuple; a tuple of one number has a comma, ({found!r},)")
        if 0 in found:
            raise NotYet(f"Stage {number}: block 0 changes the shape, so its shortcut is no identity; it stays")
        if any(not 0 < index < depth for index in found):
            raise NotYet(f"Stage {number} has {depth} blocks, 0 to {depth - 1}; you name {found}")
        if found != theirs:
            raise NotYet(f"Stage {number}: every other block of {list(range(depth))}, from 1 on; you have {found}")
    return 'Seven: the "+7 stage2-5" of Table 2e.'


def _check_4_2(answers: dict) -> str:
    expect(
        answers["shape"], (1024, 16, 14, 14),
        {
            (1024, 8, 14, 14): "T is halved nowhere: neither ResNet's strides nor a CT-Module touch time",
            (1024, 16, 16, 16): "That is for 256 pixels: 224 are halved four times up to here",
            (256, 16, 14, 14): "256 is the width within a block; at its end stand four times as many",
            (1024, 16, 7, 7): "7 x 7 is stage 5: stem and pooling halve twice, stages 3 and 4 once each",
        },
        "{value} is not (C, T, H, W) after stage 4: 4 times 256 channels, every frame, 224 / 16 pixels",
    )  # fmt: skip
    return "And stage 5 gives (2048, 16, 7, 7), which the head averages to 2048 numbers a frame."


def _check_4_3(answers: dict) -> str:
    on_clips, seen = answers["on_clips"], []

    def module(clips):
        seen.append(clips)
        return clips.cumsum(2)  # each frame depends on those before it, and on no other channel

    clips = torch.arange(2.0 * 3 * 4 * 5 * 5).view(2, 3, 4, 5, 5)
    found = given(on_clips(module, frames_of(clips), 4))
    if not seen:
        raise NotYet("`module` is never called")
    if seen[0].shape != clips.shape:
        raise NotYet(f"`module` got {tuple(seen[0].shape)}, needed (N, C, T, H, W) = {tuple(clips.shape)}")
    if not torch.equal(seen[0], clips):
        raise NotYet(
            "The shape is right and the content is not: frames of one clip stand one after the other, each with all "
            "its channels. Split N * T in two first, then swap the axes"
        )
    if found.shape != frames_of(clips).shape or not torch.equal(clips_of(found, 4), clips.cumsum(2)):
        raise NotYet("What the module gives must come back as frames, (N * T, C, H, W), in the order that they had")
    return "Reshaping never moves a number; `transpose` does."


def _check_4_4(answers: dict) -> str:
    share = answers["share"]
    for channels, sizes in ((64, (8, 8)), (512, (32, 16)), (64, (4, 4, 4))):
        between = (len(sizes) - 1) * channels
        right = 12 * sum(sizes) + between  # inputs of an output channel; the 3x3 convolution has 9 * channels
        found = float(given(share(channels, sizes))) * 9 * channels
        wrong = {
            12 * sum(sizes): "the dense point-wise convolution is missing, C * C products",
            12 * sum(sizes) + channels: "between K sub-operations there are K - 1 point-wise convolutions",
            27 * sum(sizes) + between: "space and time lie side by side: h w + t, not t h w",
            9 * sum(sizes) + between: "the temporal convolution is missing: h w + t",
            right / 3: "it stands for the 2D convolution, 9 C * C products, not for a 3D one",
        }
        if not same(found, right):
            known = (why for value, why in wrong.items() if same(found, value))
            said = f"the share is {right / 9 / channels:.4f}, your function says {found / 9 / channels:.4f}"
            raise NotYet(f"C = {channels} = {' x '.join(map(str, sizes))}: {next(known, said)}")
    return "0.44 of the 3x3 convolution at C = 64, 0.24 at C = 512: the wider the layer, the more is saved."


def _check_4_5(answers: dict) -> str:
    blocks = given(answers["blocks_of_mine"])
    try:
        found = anatomy.parts(ModelConfig(blocks=tuple(map(tuple, blocks))))
    except (ValueError, TypeError) as error:
        raise NotYet(f"Four tuples of indices are needed, for stages 2 to 5: {error}") from None
    gflops, kept = anatomy.gflops(found), anatomy.kept(found)
    if gflops > 38:
        raise NotYet(f"{gflops:.2f} GFLOPs: more than 38. Every CT-Block saves some; which stage saves most a block?")
    if kept < 92:
        raise NotYet(f"{kept:.1f} % of ImageNet's weights stay: fewer than 92 %. Which stage's blocks hold most?")
    theirs = anatomy.parts(ModelConfig())
    return (
        f"{gflops:.2f} GFLOPs, {kept:.1f} % of the weights stay; the paper's placement has "
        f"{anatomy.gflops(theirs):.2f} and {anatomy.kept(theirs):.1f} %."
    )


# ---------------------------------------------------------------- 5: the arrow of time


def _check_5_1(answers: dict) -> str:
    expect(
        answers["most_right"], 1,
        {
            2: "Both would need two different answers to one and the same score",
            0: "It may well be right on one: whichever direction it says",
            0.5: "Of this one pair it is right on a whole number of clips",
        },
        "{value} clips of two? Both get the same answer, and their labels differ",
    )  # fmt: skip
    return "At most one of two, for any weights and any training: 50 %."


def _check_5_2(answers: dict) -> str:
    torch.manual_seed(0)
    score, frames = answers["frame_average"], torch.rand(3, 8, 5)
    weight = torch.rand(5, 4)
    found = given(score(frames, weight))
    if found.shape != (3, 4):
        raise NotYet(f"Scores are (N, num_classes) = (3, 4), got {tuple(found.shape)}: average over the frames, axis 1")
    if not torch.allclose(found, score(frames.flip(1), weight), atol=1e-6):
        raise NotYet("Reversing the frames changes your score: an average does not know their order")
    if not torch.allclose(found, (frames @ weight).mean(1), atol=1e-6):
        raise NotYet("The order does not matter, as it should, but this is not the mean over frames of frames @ weight")
    return "Mean and product may be swapped: the mean of the scores is the score of the mean."


def _check_5_3(answers: dict) -> str:
    sees = answers["sees_the_arrow"]
    torch.manual_seed(0)
    clips = torch.rand(64, 8)

    def seen(clip):
        value = torch.as_tensor(given(sees(clip.clone())), dtype=torch.float)
        if value.numel() != 1:
            raise NotYet(f"A clip is to get one number, you give {value.numel()}: a sum makes one of them")
        return value.reshape(())

    found = torch.stack([seen(clip) for clip in clips])
    back = torch.stack([seen(clip.flip(0)) for clip in clips])
    if torch.allclose(found, back):
        raise NotYet("A clip and its reverse get the same value: compare neighbours in time, not frames alone")
    if not torch.allclose(found, -back, atol=1e-5):
        raise NotYet("The reverse is to get the negative: a difference changes its sign, a square does not")
    return "A temporal kernel such as (-1, 0, 1) is enough; symmetric kernels such as (1, 2, 1) are not."


EXERCISES = {
    "3.1": Exercise(
        "recall",
        """The features of a sub-operation have C = 8, T = 4, H = W = 6. Which shape (C, T, H, W) has each
gate, before it is multiplied with the features?""",
        """
spatial = (8, 1, 6, 6)  # to fill in
temporal = (8, 4, 1, 1)  # to fill in
channel = (8, 4, 1, 1)  # to fill in
squeeze = (8, 1, 1, 1)  # to fill in
shapes = {"spatial": spatial, "temporal": temporal, "channel": channel, "SE": squeeze}
""",
        _check_3_1,
    ),
    "3.2": Exercise(
        "build",
        """Eq. (6) in one line: x is (N, C, T, H, W); `attend` stands for the two convolutions and is yours to
call.""",
        """
def spatial_gate(x, attend):
    return x * attend(x.mean(2, keepdim=True)).sigmoid()  # to fill in
""",
        _check_3_2,
    ),
    "3.3": Exercise(
        "apply",
        """What can each gate not see? For the spatial, the temporal and the channel gate in turn: `"order of
frames"` or `"place in the map"`.""",
        """
blind = ["order of frames", "place in the map", "place in the map"]  # to fill in
""",
        _check_3_3,
    ),
    "3.4": Exercise(
        "open",
        """Change features (N, C, T, H, W) so that *no* gate of Tensor Excitation sees it, whatever its weights, if all
three are given the same. Then argue: is your change something that moves? What would a gate have to pool to see
it, what would its convolutions cost, and how does the network see it all the same?""",
        """
def unseen(x):
    return x + torch.linspace(-1, 1, x.shape[2])[:, None, None] * torch.linspace(-1, 1, x.shape[4])  # to fill in
""",
        _check_3_4,
    ),
    "4.1": Exercise(
        "recall",
        """ResNet-50 has 3, 4, 6 and 3 blocks in its stages 2 to 5. CT-Net replaces "one of every two", never the
first of a stage. Which, counted from 0? A tuple for each stage.""",
        """
stage_2 = (1,)  # to fill in
stage_3 = (1, 3)  # to fill in
stage_4 = (1, 3, 5)  # to fill in
stage_5 = (1,)  # to fill in
blocks = [stage_2, stage_3, stage_4, stage_5]
""",
        _check_4_1,
    ),
    "4.2": Exercise(
        "predict",
        """A clip of 16 frames of 224 x 224 pixels passes CT-Net on ResNet-50. What shape, (C, T, H, W), comes out
of stage 4?""",
        """
shape = (1024, 16, 14, 14)  # to fill in
""",
        _check_4_2,
    ),
    "4.3": Exercise(
        "repair",
        """`frames` are (N * T, C, H, W), `module` takes and gives clips, (N, C, T, H, W). The shapes below all fit, no
error is raised, and channels and frames are mixed up. Mend the line that makes the clips.""",
        """
def on_clips(module, frames, num_frames):
    c, h, w = frames.shape[1:]
    clips = frames.unflatten(0, (-1, num_frames)).transpose(1, 2)  # to mend: frames.reshape(-1, c, num_frames, h, w)
    return module(clips).transpose(1, 2).flatten(0, 1)
""",
        _check_4_3,
    ),
    "4.4": Exercise(
        "build",
        """A CT-Module (parallel, kernels 3 x 3 x 3, sizes $(C_1, \\ldots, C_K)$, a dense point-wise convolution between
two sub-operations; leave out batch norms and excitation) stands for a 3 x 3 convolution of C channels. Give its
products a position over those of the convolution.""",
        """
def share(channels, sizes):
    return (sum(sizes) * (9 + 3) + (len(sizes) - 1) * channels) / (9 * channels)  # to fill in
""",
        _check_4_4,
    ),
    "4.5": Exercise(
        "open",
        """Find CT-Blocks for ResNet-50 (174 classes, 8 x 256 x 256) that take at most 38 GFLOPs while at least 92 % of
ImageNet's weights stay. Then argue: Table 2e fills the network from stage 5 down, and the first block brings
more than all others. Would you expect your network to be as good as the paper's, and what would you have to run
to know?""",
        """
blocks_of_mine = ((1, 2), (1, 2, 3), (1, 3), ())  # to fill in
""",
        _check_4_5,
    ),
    "5.1": Exercise(
        "recall",
        """A network gives a clip and its reverse the same scores, and their labels differ. On how many of the
two can it be right, at most?""",
        """
most_right = 1  # to fill in
""",
        _check_5_1,
    ),
    "5.2": Exercise(
        "build",
        """TSN's head: `frames` are features (N, T, C), `weight` is (C, num_classes). Give the mean over the
frames of their scores.""",
        """
def frame_average(frames, weight):
    return (frames @ weight).mean(1)  # to fill in
""",
        _check_5_2,
    ),
    "5.3": Exercise(
        "open",
        """`clip` holds one number a frame, (T,). Give a value that changes its sign when the clip is played
backwards. Then argue: which temporal kernels could a CT-Block learn that would do this, and why can no
function of the *set* of frames?""",
        """
def sees_the_arrow(clip):
    return (clip[1:] ** 2 * clip[:-1] - clip[1:] * clip[:-1] ** 2).sum()  # to fill in
""",
        _check_5_3,
    ),
}
