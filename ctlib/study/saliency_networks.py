"""The small networks whose saliency is measured where no others are given, and how they are trained."""

import dataclasses
import multiprocessing
import os
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from ctlib import files
from ctlib.config import RunConfig, check_choice
from ctlib.display.parameters import given_files, project_path
from ctlib.training.recipes import run_config
from ctlib.training.records import RunFolder
from ctlib.training.train import train

# Figure 3's three, C3D, and TSN, which has no temporal modelling.
NETWORKS = {
    "TSN": ("tsn_quickstart", ""),
    "C3D": ("ctnet_quickstart", "model.module=c3d"),
    "R(2+1)D": ("ctnet_quickstart", "model.module=r2plus1d"),
    "CSN": ("ctnet_quickstart", "model.module=csn"),
    "CT-Net": ("ctnet_quickstart", ""),
}
SIZE = 128  # pixels, height and width of a clip; the last activations are then 4 x 4
# Training begins at half the size, which takes a fifth of the time per clip, and ends at the size at which the last
# activations have enough places. Chosen by the accuracy of a few shorter trainings, never by where saliency lies.
_HALF = {"arrow.train_clips": 1600, "recipe.batch": 8, "recipe.epochs": 6}
_WHOLE = {"arrow.train_clips": 640, "recipe.batch": 8, "recipe.epochs": 2, "recipe.lr": 0.03, "recipe.warmup": 0.2}


def parse_clips(text: str) -> tuple[list[int], list[Path]]:
    """The numbers of test clips, and the files, that "0 17 cat.mp4" names (words as in `files.split_words`).

    Raises:
        FileNotFoundError: a file that does not exist.
    """
    words = files.split_words(text, lambda word: word.isdecimal() or project_path(word).is_file())
    named = shlex.join(word for word in words if not word.isdecimal())
    return [int(word) for word in words if word.isdecimal()], given_files(named)


def shown_clips(numbers: Sequence[int], labels: Sequence[int]) -> list[int]:
    """The test clips of these numbers; without numbers the first clip of each of three actions.

    Raises:
        ValueError: a number that is not a clip's.
    """
    if any(number >= len(labels) for number in numbers):
        raise ValueError(f"clips must be numbers from 0 to {len(labels) - 1}, or files, got {max(numbers)}")
    return list(numbers) or [labels.index(label) for label in (0, 3, 4) if label in labels] or [0]


def trainings(network: str, seed: int, overrides: str = "") -> tuple[RunConfig, RunConfig]:
    """The two trainings of a network on Arrow of Time: at half the size, and from there at the whole.

    The second starts from the first's checkpoint, which `train_all` fills in. It sees some of the first's scenes,
    drawn larger.

    Args:
        network: a name of `NETWORKS`.
        seed: of both.
        overrides: of both, as in `recipes.run_config`; of these, data.size is the second's (if not given, `SIZE`), and
            the first's is half of it.

    Raises:
        ValueError: an unknown network or part.
    """
    check_choice("network", network, NETWORKS)
    model, parts = NETWORKS[network]
    size = run_config("arrow", model, "laptop", overrides, **{"data.size": SIZE}).data.size

    def training(name: str, given: dict, side: int) -> RunConfig:
        given = given | {"seed": seed, "arrow.size": side, "arrow.val_clips": 160, "arrow.difficulty": 0.0}
        return run_config("arrow", model, "laptop", f"{parts} {overrides} data.size={side}", name=name, **given)

    half = size // 4 * 2  # even, as videos are
    return training(f"{network}_half", _HALF, half), training(network, _WHOLE, size)


def all_trainings(
    networks: str, num_seeds: int, overrides: str = ""
) -> dict[tuple[str, int], tuple[RunConfig, RunConfig]]:
    """The `trainings` of each network that "CSN, CT-Net" names with each seed from 0: by name and seed.

    Raises:
        ValueError: no seed, an unknown network, or an unknown part.
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}")
    names = [name.strip() for name in networks.split(",")]
    return {(name, seed): trainings(name, seed, overrides) for name in names for seed in range(num_seeds)}


def train_all(pairs: Sequence[tuple[RunConfig, RunConfig]], out_dir: str | Path) -> Iterator[tuple[RunConfig, dict]]:
    """Do both trainings of each network, one network per CPU core at once; finished runs are not done again.

    Yields:
        Each run and its `result.json`, both runs of a network when its second is done.

    Raises:
        ValueError: as `train.train`, when the runs beside it have ended.
    """
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_train_both, pair, out_dir) for pair in pairs]):
            yield from done.result()


def _train_both(pair: tuple[RunConfig, RunConfig], out_dir: str | Path) -> list[tuple[RunConfig, dict]]:
    small, large = pair
    folder = RunFolder.of(small, out_dir)
    first = train(small, folder.path)
    large = dataclasses.replace(large, start=files.portable(folder.checkpoint))
    return [(small, first), (large, train(large, RunFolder.of(large, out_dir).path))]
