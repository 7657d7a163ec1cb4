"""Which frames of a video make a clip.

Indices count from 0. A video shorter than T is stretched over the T places: frames repeat in order (the authors'
release repeats the first frame instead).
"""

import numpy as np

from ctlib.config import check_choice


class Sparse:
    """TSN's segments (Wang et al., 2016): T equal parts of the video, one frame from each."""

    def train(self, num_frames: int, clip_frames: int, rng: np.random.Generator) -> np.ndarray:
        """A random frame of each segment: floor((i + u) n / T), u uniform in [0, 1). Shape (T,).

        Departs from the authors' release, whose segments of floor(n / T) frames never reach the last n mod T.
        """
        return _segments(num_frames, clip_frames, rng.random(clip_frames))

    def test(self, num_frames: int, clip_frames: int, clips: int = 1) -> np.ndarray:
        """The segments' centres, then their starts: the authors' first and second clip. (clips, T).

        Rounding of n / T in the release moves a frame in about one of a hundred lengths.

        Raises:
            ValueError: other than one or two clips.
        """
        if not 1 <= clips <= 2:
            raise ValueError(f"this sampling has one or two test clips per video, asked for {clips}")
        return np.stack([_segments(num_frames, clip_frames, offset) for offset in (0.5, 0.0)[:clips]])


class Mirrored(Sparse):
    """Segments whose test indices are their own mirror image, S = n - 1 - S.

    A video and its reverse then give the same set of frames. A network that averages frame scores answers the same
    for both, so it is right on at most one. In training each set is as likely as its mirror image.
    """

    def test(self, num_frames: int, clip_frames: int, clips: int = 1) -> np.ndarray:
        """As in `Sparse` up to the middle of the video, mirrored from there on. (clips, T).

        Raises:
            ValueError: T is odd, or other than one or two clips.
        """
        if clip_frames % 2:
            raise ValueError(f"mirrored sampling needs an even number of frames per clip, got {clip_frames}")
        first = super().test(num_frames, clip_frames, clips)[:, : clip_frames // 2]
        return np.concatenate([first, num_frames - 1 - first[:, ::-1]], axis=1)


class Neighbours(Mirrored):
    """Five neighbouring frames around one frame of each segment, as TDN sees them (Wang et al., 2021).

    T counts all frames, five for each segment. At the ends of the video, the first or last frame is repeated.
    """

    around = np.arange(-2, 3)

    def train(self, num_frames: int, clip_frames: int, rng: np.random.Generator) -> np.ndarray:
        """Around a random frame of each segment. Shape (T,)."""
        return self._with_neighbours(super().train(num_frames, self._segments(clip_frames), rng), num_frames)

    def test(self, num_frames: int, clip_frames: int, clips: int = 1) -> np.ndarray:
        """Around the frames of `Mirrored`, and of more than two clips around those of `Dense`. (clips, T).

        Raises:
            ValueError: T is no multiple of ten, or fewer than one clip.
        """
        test = Dense().test if clips > 2 else super().test
        return self._with_neighbours(test(num_frames, self._segments(clip_frames), clips), num_frames)

    def _segments(self, clip_frames: int) -> int:
        if clip_frames % (2 * len(self.around)):
            raise ValueError(f"this sampling takes five frames of an even number of segments, got {clip_frames} frames")
        return clip_frames // len(self.around)

    def _with_neighbours(self, centres: np.ndarray, num_frames: int) -> np.ndarray:
        chosen = (centres[..., None] + self.around).clip(0, num_frames - 1)
        return chosen.reshape(*centres.shape[:-1], -1)


class Dense:
    """A window of 64 consecutive frames (Wang et al., 2018), as the paper trains on Kinetics.

    T frames are spaced evenly in it; T = 8 or 16 gives the authors' stride of 64 // T. A shorter video is the
    window itself (the authors' release starts again at its first frame).
    """

    window = 64  # frames

    def train(self, num_frames: int, clip_frames: int, rng: np.random.Generator) -> np.ndarray:
        """A window at a random place. Shape (T,)."""
        window = min(self.window, num_frames)
        start = rng.integers(num_frames - window + 1)
        return start + _segments(window, clip_frames, 0.0)

    def test(self, num_frames: int, clip_frames: int, clips: int = 1) -> np.ndarray:
        """The authors' test clips, four in the paper; each covers the whole video. (clips, T).

        Clip k takes one frame of each of T segments, all at one offset. The offset grows with k from the segments'
        starts to their last frames. A single clip takes the centres.
        """
        _check_clips(clips)
        if clips == 1:
            return _segments(num_frames, clip_frames, 0.5)[None]
        starts = _segments(num_frames, clip_frames, 0.0)
        last = max(num_frames / clip_frames - 1, 0)  # frames; a larger offset would leave the last segment
        return np.stack([starts + offset for offset in np.linspace(0, last, clips).astype(np.int64)])


class DenseWindows(Dense):
    """Dense sampling whose test clips are windows too, evenly placed: TSM's protocol, with ten of them."""

    def test(self, num_frames: int, clip_frames: int, clips: int = 10) -> np.ndarray:
        """Windows from the video's start to its end; a single clip is the middle one. (clips, T)."""
        _check_clips(clips)
        window = min(self.window, num_frames)
        room = num_frames - window
        starts = [room // 2] if clips == 1 else np.linspace(0, room, clips).astype(np.int64)
        return np.stack([start + _segments(window, clip_frames, 0.0) for start in starts])


def _check_clips(clips: int) -> None:
    if clips < 1:
        raise ValueError(f"a video has at least one test clip, asked for {clips}")


def _segments(num_frames: int, clip_frames: int, offset) -> np.ndarray:
    if num_frames < 1 or clip_frames < 1:
        raise ValueError(f"a video and a clip need at least one frame, got {num_frames} and {clip_frames}")
    return ((np.arange(clip_frames) + offset) * num_frames / clip_frames).astype(np.int64)


SAMPLINGS = {
    "sparse": Sparse(),
    "mirrored": Mirrored(),
    "neighbours": Neighbours(),
    "dense": Dense(),
    "dense-windows": DenseWindows(),
}


def check_fits(name: str, clip_frames: int, clips: int) -> None:
    """Raise ValueError unless the sampling of this name has so many test clips of so many frames."""
    check_choice("sampling", name, SAMPLINGS)
    SAMPLINGS[name].test(max(1, clip_frames), clip_frames, clips)
