"""Where the object is, and whether saliency lies on it: the truth that is drawn, the scores, and what they say."""

import numpy as np
import pandas as pd
import pytest
import torch

from ctlib import saliency
from ctlib.data import arrow
from ctlib.data.actions import class_names
from ctlib.data.clips import ClipDataset
from ctlib.models import build_model, model_config
from ctlib.study import localisation


@pytest.mark.parametrize("pair", range(14))
def test_the_mask_covers_where_the_clip_differs_from_one_without_the_object(pair):
    config = arrow.ArrowConfig(size=64, difficulty=0.3, actions="all")
    scene = arrow._scene(config, "val", pair)
    without = arrow._painted(scene, 64, [layer for layer in scene.layers if not layer[3]])
    differs = (arrow._painted(scene, 64) - without).abs().amax(1).numpy()  # (n, H, W)
    mask = arrow.render(config, "val", pair).mask
    assert mask.any() and (differs[mask] > 0.03).mean() > 0.85  # the object's colour may be the background's
    outside = differs > 0.3
    assert outside.any() and (mask[outside]).mean() > 0.98  # its soft edge alone is outside
    again = arrow._painted(arrow._scene(config, "val", pair), 64)
    assert np.array_equal((again - without).abs().amax(1).numpy(), differs)


def test_a_written_video_s_truth_is_that_of_its_picture_and_mirrored_for_its_partner(arrow_root):
    stamp = arrow.ArrowConfig(train_clips=32, val_clips=32, size=32, difficulty=0.2)
    forward = arrow.truth(arrow_root, "val/000003_forward.mp4")
    backward = arrow.truth(arrow_root, arrow_root / "val/000003_backward.mp4")
    assert np.array_equal(forward.mask, arrow.render(stamp, "val", 3).mask)
    assert np.array_equal(forward.mask[::-1], backward.mask) and np.array_equal(forward.acting[::-1], backward.acting)
    assert not np.array_equal(forward.mask, arrow.truth(arrow_root, "train/000003_forward.mp4").mask)


def test_nothing_moves_in_frames_in_which_nothing_acts():
    config = arrow.ArrowConfig(size=32, difficulty=0.0)
    for pair in range(8):
        frames, scene = arrow.render(config, "val", pair).frames, arrow._scene(config, "val", pair)
        acting = (scene.progress > 0) & (scene.progress < 1)
        moves = (frames[1:] != frames[:-1]).any((1, 2, 3))
        assert not moves[~acting[1:] & ~acting[:-1]].any()
        assert 24 <= acting.sum() <= 48 and moves[acting[1:] & acting[:-1]].mean() > 0.8


@pytest.mark.parametrize("source", ["val/3_forward.mp4", "other/000003_forward.mp4", "val/000003_forward.avi"])
def test_truth_of_what_is_no_video_of_the_set(arrow_root, source):
    with pytest.raises(ValueError, match="such as val/000003_backward.mp4, got"):
        arrow.truth(arrow_root, source)


def test_truth_needs_the_data_set_and_its_version(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an Arrow of Time data set: it has no arrow.json"):
        arrow.truth(tmp_path, "val/000003_forward.mp4")
    (tmp_path / "arrow.json").write_text('{"version": 0}')
    with pytest.raises(ValueError, match="holds version 0 of Arrow of Time, this ctlib draws version 3"):
        arrow.truth(tmp_path, "val/000003_forward.mp4")


def test_clips_masks_are_those_of_the_frames_and_pixels_that_the_network_sees(arrow_root, val_samples):
    dataset = ClipDataset(val_samples, 4, 32)
    known = localisation.truths(dataset)
    assert known.masks.shape == (32, 4, 32, 32) and known.acting.shape == (32, 4)
    frames = dataset.sampling.test(48, 4)[0]
    for index in (0, 5):
        truth = arrow.truth(arrow_root, val_samples.path(index))
        assert np.array_equal(known.masks[index].numpy(), truth.mask[frames])
        assert np.array_equal(known.acting[index].numpy(), truth.acting[frames])
    cropped = localisation.truths(ClipDataset(val_samples, 4, 16, short_side=32))
    assert torch.equal(cropped.masks, known.masks[:, :, 8:24, 8:24])
    doubled = localisation.truths(ClipDataset(val_samples, 4, 64))
    assert torch.equal(doubled.masks[:, :, ::2, 1::2], known.masks)
    with pytest.raises(ValueError, match="one test clip x one crop"):
        localisation.truths(ClipDataset(val_samples, 4, 32, crops=3))


def test_saliency_that_is_the_object_scores_one_and_that_of_the_rest_zero():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :4] = masks[0, 1, :2, :4] = True
    inside = localisation.frame_scores(masks.float(), masks)
    assert all((inside[name] == 1).all() for name in ("share", "hit"))
    assert inside["area"].tolist() == [[0.5, 0.125]] and inside["mass"].tolist() == [[0.8, 0.2]]
    rest = localisation.frame_scores((~masks).float(), masks)
    assert all((rest[name] == 0).all() for name in ("share", "hit"))


def test_saliency_that_says_nothing_scores_what_the_area_does():
    masks = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.7
    for tubes in (torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.4)):
        scores = localisation.frame_scores(tubes, masks)
        for name in ("share", "hit"):
            torch.testing.assert_close(scores[name], scores["area"])
        torch.testing.assert_close(scores["mass"], torch.full((2, 3), 1 / 3, dtype=torch.float64))


def test_several_greatest_places_share_the_hit():
    masks = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    masks[0, 0, 0, 0] = True
    tubes = torch.tensor([[[[1.0, 1.0], [0.5, 0.0]]]])
    scores = localisation.frame_scores(tubes, masks)
    assert scores["hit"].item() == 0.5 and scores["share"].item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("tubes", "text"),
    [(torch.zeros(1, 2, 4, 4), "must both be"), (-torch.ones(1, 2, 8, 8), "must not be negative .*got -1")],
)
def test_frame_scores_refuse_what_they_cannot_score(tubes, text):
    with pytest.raises(ValueError, match=text):
        localisation.frame_scores(tubes, torch.zeros(1, 2, 8, 8, dtype=torch.bool))


def test_shuffling_keeps_the_values_and_loses_the_place():
    maps = torch.arange(2 * 2 * 16.0).view(2, 2, 4, 4)
    moved = localisation.shuffled(maps, np.random.default_rng(0))
    assert not torch.equal(moved, maps) and torch.equal(moved.flatten(1).sort().values, maps.flatten(1))
    assert torch.equal(moved, localisation.shuffled(maps, np.random.default_rng(0)))
    many = torch.stack([localisation.shuffled(maps[:1], np.random.default_rng(seed))[0] for seed in range(2000)])
    assert (many.mean(0) - maps[0].mean()).abs().max() < 1.0  # 4.5 standard errors of 9.2 / sqrt(2000)


@pytest.fixture(scope="module")
def measured(arrow_root):
    from ctlib.data.catalog import load_samples

    dataset = ClipDataset(load_samples("arrow", arrow_root, "val"), 4, 64)
    config = model_config("ctnet_quickstart", num_classes=16, num_frames=4)
    return dataset, localisation.measure(localisation.untrained(config), dataset, localisation.truths(dataset))


def test_every_frame_of_every_clip_is_measured_and_its_control(measured):
    dataset, rows = measured
    assert len(rows) == 3 * 32 * 4 and set(rows.of) == {"network", "placed where seen", "places shuffled"}
    for name in ("area", "share", "hit", "mass"):
        assert rows[name].between(0, 1 + 1e-9).all(), name
    masses = rows.groupby(["of", "source"]).mass.sum()
    assert np.allclose(masses, 1)
    assert rows.label.tolist()[:4] == [dataset.samples[0].label] * 4 and rows.frame.tolist()[:4] == [0, 1, 2, 3]


def test_batches_do_not_change_what_is_measured(measured):
    dataset, rows = measured
    config = model_config("ctnet_quickstart", num_classes=16, num_frames=4)
    again = localisation.measure(localisation.untrained(config), dataset, localisation.truths(dataset), batch=5)
    own, other = (table[table.of == "network"].reset_index(drop=True) for table in (rows, again))
    pd.testing.assert_frame_equal(own, other, rtol=1e-3, atol=1e-5)


def test_a_network_that_answers_with_the_mask_is_found_out(measured, monkeypatch):
    """The whole way from maps to numbers, with maps that are known."""
    dataset, _ = measured
    known = localisation.truths(dataset)
    done = [0]

    def raw_maps(model, clips):
        here = known.masks[done[0] : done[0] + len(clips)].float()
        done[0] += len(clips)
        return here, torch.zeros(len(clips), 16)

    monkeypatch.setattr(saliency, "raw_maps", raw_maps)
    monkeypatch.setattr(saliency, "stride_of", lambda model: 1)
    rows = localisation.measure(torch.nn.Linear(1, 1), dataset, known)
    clips = localisation.by_clip(rows)
    own, placed, shuffled = (clips[clips.of == of] for of in ("network", "placed where seen", "places shuffled"))
    assert np.allclose(placed.share, 1)
    seen = known.masks.flatten(2).any(2)
    hidden = float((~seen).sum()) / seen.numel()
    assert hidden < 0.2 and np.allclose(own.share, 1) and np.allclose(own.hit, 1)
    assert abs(shuffled.share.mean() - shuffled.area.mean()) < 0.05


FRAMES = pd.DataFrame(
    {"of": "network", "source": "val/000000_forward.mp4", "label": 0, "predicted": 0, "frame": range(4)}
    | {"area": [0.0, 0.2, 0.2, 0.2], "share": [0.0, 0.3, 0.6, 0.6], "hit": [0.0, 1.0, 1.0, 0.0]}
    | {"mass": [0.1, 0.4, 0.4, 0.1], "acting": [False, True, False, False]}
)


def test_clips_are_means_over_frames_in_which_the_object_is_seen():
    clip = localisation.by_clip(FRAMES).iloc[0]
    assert clip.share == pytest.approx(0.5) and clip.hit == pytest.approx(2 / 3) and clip.area == pytest.approx(0.2)
    assert clip.area_time == 0.25 and clip.share_time == 0.4 and clip.hit_time == 0.5
    always = localisation.by_clip(FRAMES.assign(acting=True)).iloc[0]
    assert np.isnan([always.area_time, always.share_time, always.hit_time]).all() and always.share == clip.share


def clips_of(values, network="CT-Net", seed=0):
    rows = [
        {"network": network, "seed": seed, "of": "network", "source": f"val/{pair:06d}_{way}.mp4", "label": 0}
        | {"predicted": pair % 2, "area": 0.1, "share": value, "hit": 1.0, "area_time": np.nan}
        | {"share_time": np.nan, "hit_time": np.nan}
        for pair, value in enumerate(values)
        for way in ("forward", "backward")
    ]
    return pd.DataFrame(rows)


def test_the_summary_s_intervals_are_over_mirrored_pairs():
    row = localisation.summary(clips_of([0.2, 0.4, 0.6])).iloc[0]
    assert (row.share, row.area, row.top1, row.clips, row.clips_time) == (
        pytest.approx(40), pytest.approx(10), pytest.approx(100 * 2 / 3), 6, 0,
    )  # fmt: skip
    assert row.share_margin == pytest.approx(4.302653 * 20 / np.sqrt(3), rel=1e-5) and np.isnan(row.share_time)


def test_hits_are_shown_by_action_for_trained_networks_and_their_own_maps():
    values = {"hit": [1.0, 0.5, 0.0, 0.25], "hit_time": [1.0, 0.0, np.nan, np.nan]}
    clips = pd.DataFrame(
        values | {"label": [0, 1, 2, 2], "of": localisation.OWN, "network": "TSN", "seed": [0, 1, 0, 1]}
    )
    others = clips.assign(network="TSN" + localisation.RANDOM), clips.assign(of=localisation.SHUFFLED)
    found = localisation.by_action(pd.concat([clips, *others]), class_names("all"))
    assert list(found) == ["pointing at it", "strongest frame while it acts"]
    assert found["pointing at it"].loc["TSN"].to_dict() == {"push": 75, "fall": 12.5}
    in_time = found["strongest frame while it acts"]
    assert in_time.loc["TSN", "push"] == 50 and in_time.loc["TSN"].isna().tolist() == [False, True]
    assert localisation.by_action(clips, ["run", "jump"]) == {}


def compared(*gains, others=("CSN",)):
    """CT-Net and others, one gain per seed."""
    values = np.array([0.2, 0.4, 0.6])
    parts = [clips_of(values, other, seed) for other in others for seed in range(len(gains))]
    parts += [clips_of(values + gain + [-0.01, 0, 0.01], seed=seed) for seed, gain in enumerate(gains)]
    return pd.concat(parts)


def test_a_difference_is_significant_only_with_several_seeds_and_beyond_both_margins():
    one = localisation.differences(compared(0.3), "CT-Net").set_index("measure").loc["share"]
    assert one["mean"] == pytest.approx(30) and one.margin == pytest.approx(2.484, abs=1e-3)
    assert one["mean"] > one.margin and not one.significant and np.isnan(one.margin_seeds)
    steady = localisation.differences(compared(0.3, 0.28), "CT-Net").set_index("measure").loc["share"]
    assert steady.significant and steady.margin_seeds == pytest.approx(12.706, abs=1e-3) and steady.seeds == 2
    unsteady = localisation.differences(compared(0.3, -0.1), "CT-Net").set_index("measure").loc["share"]
    assert not unsteady.significant and unsteady.margin_seeds == pytest.approx(20 * 12.706, abs=0.01)
    seen = [part.assign(of=localisation.SEEN) for part in (clips_of([0.2, 0.4]), clips_of([0.3, 0.4], "CSN"))]
    placed = localisation.differences(pd.concat([*seen, clips_of([0.9, 0.9])]), "CT-Net", localisation.SEEN)
    assert placed.set_index("measure")["mean"]["share"] == pytest.approx(-5)


@pytest.mark.parametrize(
    ("gains", "numbers"),
    [
        ((0.3, 0.28), [1, 1, 0, 0, True]),
        ((0.3,), [1, 0, 0, 0, False]),
        ((-0.3, -0.28), [0, 0, 1, 1, False]),
    ],
)
def test_figure_3_s_claim_is_confirmed_by_significant_differences_alone(gains, numbers):
    clips = compared(*gains, others=("CSN", "TSN"))  # TSN is not in the figure, and not counted
    differences = localisation.differences(clips.drop(columns=["hit"]).assign(hit=np.nan), "CT-Net")
    claim = localisation.claim(differences)
    assert list(claim.columns) == ["for", "for, significant", "against", "against, significant", "confirmed"]
    assert claim.loc["network"].tolist() == numbers
    assert localisation.claim(differences[differences.network == "TSN"]).empty


def test_more_than_with_random_weights_is_where_the_intervals_lie_apart_in_every_training():
    def rows(values, margin):
        return [
            {"network": name, "seed": seed, "of": "network"}
            | dict.fromkeys(localisation.MEASURES, value)
            | {f"{measure}_margin": margin for measure in localisation.MEASURES}
            for name, by_seed in values.items()
            for seed, value in enumerate(by_seed)
        ]

    values = {"CSN": (30, 10), "CSN, random weights": (10, 10), "CT-Net": (30, 40), "CT-Net, random weights": (10, 10)}
    values |= {"TSN": (5, 5), "TSN, random weights": (20, 20)}
    beside = localisation.beside_random(pd.DataFrame(rows(values, 5.0)))
    assert beside["saliency on the object"].to_dict() == {"CSN": "", "CT-Net": "more", "TSN": "less"}
    assert beside.shape == (3, 4)
    assert (localisation.beside_random(pd.DataFrame(rows(values, 15.0))) == "").all(axis=None)


def test_random_weights_are_the_seed_s_and_leave_the_generator_alone():
    config = model_config("tsn_quickstart", num_classes=3)
    before = torch.get_rng_state()
    first, again, other = (localisation.untrained(config, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before) and not first.training
    assert torch.equal(first.fc.weight, again.fc.weight) and not torch.equal(first.fc.weight, other.fc.weight)
    assert type(first) is type(build_model(config))
