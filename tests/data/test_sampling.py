import numpy as np
import pytest

from ctlib.data.sampling import SAMPLINGS, Dense, DenseWindows, Mirrored, Sparse, check_fits


def test_test_clips_are_the_authors_centres_and_starts():
    centres, starts = Sparse().test(32, 8, clips=2).tolist()
    assert centres == [2, 6, 10, 14, 18, 22, 26, 30]
    assert starts == [0, 4, 8, 12, 16, 20, 24, 28]
    assert Sparse().test(30, 8).tolist() == [[1, 5, 9, 13, 16, 20, 24, 28]]  # int(tick / 2 + tick * i), tick = 3.75


@pytest.mark.parametrize(
    ("length", "clip", "expected"), [(1, 4, [0, 0, 0, 0]), (3, 4, [0, 1, 1, 2]), (4, 4, [0, 1, 2, 3])]
)
def test_a_short_video_is_spread_over_the_clip(length, clip, expected):
    for name, sampling in SAMPLINGS.items():
        count = 20 if name == "neighbours" else clip
        assert sampling.train(length, count, np.random.default_rng(0)).max() < length
    assert Sparse().test(length, clip).tolist() == [expected]


@pytest.mark.parametrize("length", [1, 5, 7, 30, 48, 300])
@pytest.mark.parametrize("clip", [1, 3, 8, 16])
def test_training_draws_one_frame_from_each_segment(length, clip):
    rng = np.random.default_rng(0)
    drawn = np.array([Sparse().train(length, clip, rng) for _ in range(2000)])
    low = np.floor(np.arange(clip) * length / clip)
    high = np.ceil(np.arange(1, clip + 1) * length / clip) - 1
    assert (drawn >= low).all() and (drawn <= high).all()
    if clip <= length <= 48:
        assert len(np.unique(drawn)) == length  # no frame is out of reach, the tail of the video included


def test_neighbours_stand_around_the_frame_of_each_segment():
    sampling = SAMPLINGS["neighbours"]
    centres = Mirrored().test(48, 8)[0]
    assert sampling.test(48, 40)[0].reshape(8, 5).tolist() == [[c + around for around in range(-2, 3)] for c in centres]
    assert sampling.test(4, 10).tolist() == [[0, 0, 1, 2, 3, 0, 1, 2, 3, 3]]  # the ends are repeated
    assert sorted(sampling.test(50, 40)[0]) == sorted(49 - sampling.test(50, 40)[0])
    drawn = sampling.train(48, 40, np.random.default_rng(0)).reshape(8, 5)
    assert (np.diff(drawn[1:-1]) == 1).all() and (drawn[:, 2] // 6 == np.arange(8)).all()
    four = sampling.test(48, 40, 4).reshape(4, 8, 5)
    assert (four[..., 2] == SAMPLINGS["dense"].test(48, 8, 4)).all()
    with pytest.raises(ValueError, match="five frames of an even number of segments, got 8 frames"):
        check_fits("neighbours", 8, 1)


@pytest.mark.parametrize("length", [48, 96, 50, 7])
@pytest.mark.parametrize("clip", [2, 8, 12, 16, 24])
def test_mirrored_sets_are_their_own_mirror_image(length, clip):
    for indices in Mirrored().test(length, clip, clips=2):
        assert sorted(indices) == sorted(length - 1 - indices)
        assert list(indices) == sorted(indices) and indices.min() >= 0 and indices.max() < length


def test_mirrored_indices():
    assert Mirrored().test(48, 8, clips=2).tolist() == [[3, 9, 15, 21, 26, 32, 38, 44], [0, 6, 12, 18, 29, 35, 41, 47]]


def test_dense_training_is_a_window_of_64_frames_at_a_random_place():
    rng = np.random.default_rng(0)
    drawn = np.array([Dense().train(100, 8, rng) for _ in range(2000)])
    assert (np.diff(drawn) == 8).all()  # the authors' stride of 64 // 8
    assert set(drawn[:, 0]) == set(range(37)) and drawn.max() == 92
    assert Dense().train(64, 16, rng).tolist() == list(range(0, 64, 4))
    assert Dense().train(64, 12, rng).tolist() == [0, 5, 10, 16, 21, 26, 32, 37, 42, 48, 53, 58]


@pytest.mark.parametrize("length", [1, 3, 8, 63])
def test_a_video_shorter_than_the_window_is_the_window(length):
    """In order, from its first frame on, and never wrapped round to its beginning."""
    for clip in (4, 8, 16):
        indices = Dense().train(length, clip, np.random.default_rng(0))
        assert indices[0] == 0 and (np.diff(indices) >= 0).all() and indices[-1] < length
        assert indices.tolist() == [i * length // clip for i in range(clip)]


def test_dense_testing_is_the_authors_four_clips_over_the_whole_video():
    # int(i * tick + start), tick = n / T, start in int(linspace(0, tick - 1, 4))
    assert Dense().test(300, 8, clips=4)[:, :3].tolist() == [[0, 37, 75], [12, 49, 87], [24, 61, 99], [36, 73, 111]]
    assert Dense().test(250, 16, clips=4)[:, -1].tolist() == [234, 238, 243, 248]
    assert Dense().test(32, 8).tolist() == [[2, 6, 10, 14, 18, 22, 26, 30]]


def test_dense_windows_are_tsm_s():
    clips = DenseWindows().test(300, 8, clips=10)
    assert clips[:, 0].tolist() == [0, 26, 52, 78, 104, 131, 157, 183, 209, 236] and (np.diff(clips) == 8).all()
    assert DenseWindows().test(300, 8, clips=1)[:, 0].tolist() == [118]


@pytest.mark.parametrize("sampling", [Dense(), DenseWindows()])
@pytest.mark.parametrize("length", [1, 5, 12, 30, 64, 65, 299])
@pytest.mark.parametrize("clip", [1, 8, 12, 24])
def test_dense_clips_stay_in_the_video_and_in_order(sampling, length, clip):
    for clips in (1, 2, 4, 10):
        indices = sampling.test(length, clip, clips)
        assert indices.shape == (clips, clip) and indices.min() >= 0 and indices.max() < length
        assert (np.diff(indices) >= 0).all()


def test_refusals():
    for sampling in (Dense(), DenseWindows()):
        with pytest.raises(ValueError, match="at least one test clip, asked for 0"):
            sampling.test(48, 8, clips=0)
    with pytest.raises(ValueError, match="even number of frames per clip, got 3"):
        Mirrored().test(48, 3)
    with pytest.raises(ValueError, match="one or two test clips per video, asked for 3"):
        Sparse().test(48, 8, clips=3)
    with pytest.raises(ValueError, match="at least one frame, got 0 and 8"):
        Sparse().test(0, 8)


def best_additive_accuracy(sample, length, clip, rng, count=4000):
    """How well frames' positions alone tell a video from its reverse, scores added over frames.

    A video shows frames S; its reverse, sampled in the same way, shows n - 1 - S' of the same
    pictures. The best score of single pictures is fitted by logistic regression and tested anew.
    """

    def draw():
        shown = np.zeros((count, length))
        backward = np.arange(count) % 2
        for row, reverse in enumerate(backward):
            indices = sample(rng)
            np.add.at(shown[row], length - 1 - indices if reverse else indices, 1 / clip)
        return shown, 2 * backward - 1

    train, sign = draw()
    score = np.zeros(length)
    for _ in range(300):
        wrong = 1 / (1 + np.exp(sign * (train @ score)))
        score += 20 * train.T @ (sign * wrong) / count
    test, sign = draw()
    margin = sign * (test @ score)
    return np.mean(margin > 1e-9) + 0.5 * np.mean(np.abs(margin) <= 1e-9)


CHANCE = 3 * 0.5 / 4000**0.5  # three standard errors


@pytest.mark.parametrize("clip", [8, 12, 16, 24])
def test_no_score_of_single_frames_finds_the_arrow_of_time(clip):
    rng = np.random.default_rng(clip)
    accuracy = best_additive_accuracy(lambda rng: Mirrored().train(48, clip, rng), 48, clip, rng)
    assert abs(accuracy - 0.5) < CHANCE
    for indices in Mirrored().test(48, clip, clips=2):
        assert abs(best_additive_accuracy(lambda rng, s=indices: s, 48, clip, rng) - 0.5) < CHANCE


def test_the_check_above_can_fail():
    """The released code leaks the arrow twice: by its centres, and by the tail that it leaves out."""
    rng = np.random.default_rng(0)
    centres = Sparse().test(32, 8)[0]
    assert best_additive_accuracy(lambda rng: centres, 32, 8, rng) == 1.0
    segment = 32 // 12
    assert (
        best_additive_accuracy(lambda rng: np.arange(12) * segment + rng.integers(0, segment, 12), 32, 12, rng) > 0.75
    )
