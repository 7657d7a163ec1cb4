"""The small networks whose saliency is measured where no others are given, and how they are trained."""

import dataclasses
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from ctlib import files
from ctlib.config import RunConfig, check_choice
from ctlib.training.recipes import run_config
from ctlib.training.records import RunFolder
from ctlib.training.train import train

# Figure 3's three, the one that it leaves out, and TSN, which sees no time at all.
NETWORKS = {
    "TSN": ("tsn_quickstart", ""),
    "C3D": ("ctnet_quickstart", "model.module=c3d"),
    "R(2+1)D": ("ctnet_quickstart", "model.module=r2plus1d"),
    "CSN": ("ctnet_quickstart", "model.module=csn"),
    "CT-Net": ("ctnet_quickstart", ""),
}
# Trained at half the size first, as most of what there is to learn can be learned there in a fifth of the time, then at
# the size at which the last activations have places enough. Sized for a quarter of an hour in all, and chosen by the
# accuracy of a few shorter trainings, never by where saliency lies.
_HALF = {"arrow.train_clips": 1600, "recipe.batch": 8, "recipe.epochs": 6}
_WHOLE = {"arrow.train_clips": 640, "recipe.batch": 8, "recipe.epochs": 2, "recipe.lr": 0.03, "recipe.warmup": 0.2}


def trainings(network: str, seed: int, size: int = 128, overrides: str = "", **given) -> tuple[RunConfig, RunConfig]:
    """The two trainings of a network of `NETWORKS` on Arrow of Time: at half the size, and from there at `size`.

    The second starts from the first's checkpoint, which `train_all` fills in, and sees some of its
    scenes, drawn larger.

    Args:
        network: a name of `NETWORKS`.
        seed: of both.
        size: pixels, height and width of the second's clips and videos; the first's are half that.
        overrides: of both, as `recipes.run_config` takes them.
        given: of both, likewise, such as `**{"recipe.epochs": 1}`.

    Raises:
        ValueError: an unknown network or part.
    """
    check_choice("network", network, NETWORKS)
    model, parts = NETWORKS[network]
    both = {"seed": seed, "arrow.val_clips": 160, "arrow.difficulty": 0.0}
    half = size // 4 * 2  # even, as videos are
    text = f"{parts} {overrides}"
    first, second = (
        run_config(
            "arrow", model, "laptop", text, name=name, **both | own | {"data.size": side, "arrow.size": side} | given
        )
        for name, own, side in ((f"{network}_half", _HALF, half), (network, _WHOLE, size))
    )
    return first, second


def all_trainings(
    networks: str, seeds: int, size: int = 128, overrides: str = "", **given
) -> dict[tuple[str, int], tuple[RunConfig, RunConfig]]:
    """The `trainings` of each network that "CSN, CT-Net" names with each seed from 0: by name and seed.

    Raises:
        ValueError: no seed, an unknown network, or an unknown part.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    names = [name.strip() for name in networks.split(",")]
    return {(name, seed): trainings(name, seed, size, overrides, **given) for name in names for seed in range(seeds)}


def train_all(
    pairs: Sequence[tuple[RunConfig, RunConfig]], out_dir: str | Path, jobs: int = 1
) -> Iterator[tuple[RunConfig, dict]]:
    """Both trainings of each network, found where they are finished; each run and its `result.json`, as they are done.

    With several jobs as many trainings go on side by side, in processes of their own.

    Raises:
        ValueError: fewer than one job; else as `train.train`, when those beside it have come to their end.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")

    def begun(config: RunConfig) -> Future:
        return pool.submit(train, config, RunFolder.of(config, out_dir).path)

    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {begun(small): (small, large) for small, large in pairs}
        while waiting:
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                config, following = waiting.pop(done)
                yield config, done.result()
                if following is not None:
                    start = files.portable(RunFolder.of(config, out_dir).checkpoint)
                    following = dataclasses.replace(following, start=start)
                    waiting[begun(following)] = following, None
