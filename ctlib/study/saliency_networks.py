"""The small networks whose saliency is measured where no others are given, and how they are trained."""

import dataclasses
import json
import multiprocessing
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ctlib import checkpoints, files
from ctlib.checkpoints import Checkpoint
from ctlib.config import ComputeConfig, Config, RunConfig, at_least, between, check_choice, one_of
from ctlib.saliency import PLACEMENTS
from ctlib.training.machine import Machine
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
# Training begins at half the size, which takes a fifth of the time per clip, and ends at the size at which the last
# activations have enough places. Chosen by the accuracy of a few shorter trainings, never by where saliency lies.
_HALF = {"arrow.train_clips": 1600, "recipe.batch": 8, "recipe.epochs": 6}
_WHOLE = {"arrow.train_clips": 640, "recipe.batch": 8, "recipe.epochs": 2, "recipe.lr": 0.03, "recipe.warmup": 0.2}


@dataclass(frozen=True)
class Settings(Config):
    """How notebooks/saliency_tubes.ipynb explains; nothing here changes a training."""

    classes: str = "predicted"  # what is explained of a clip: predicted, true, or the name of one class for all
    placement: str = one_of(PLACEMENTS, "even")  # of the maps in what is shown: even, or seen (ResNets only)
    threshold: float = between(0, 1, 0.0)  # share of a clip's greatest value below which nothing is shown
    batch: int = at_least(1, 16)  # clips explained at once
    jobs: int = at_least(1, 2)  # trainings side by side, each with a CPU thread
    device: str = one_of(("auto", "cpu"), "auto")  # auto: a GPU if there is one
    released_model: str = "ctnet_r50"  # the network of checkpoints of the paper's authors
    num_frames: int = at_least(0, 0)  # T of the authors' checkpoints; 0: as their path says (segment8)

    def torch_device(self) -> torch.device:
        return torch.device("cpu" if Machine().on_cpu(ComputeConfig(device=self.device)) else "cuda")

    def load(self, path: Path, classes: Sequence[str]) -> Checkpoint:
        """A checkpoint of ours or of the authors."""
        return checkpoints.load_any(path, classes, self.released_model, self.num_frames or None)


def parse_settings(text: str) -> Settings:
    """The settings that 'threshold=0.3 classes="Something falling down"' names.

    Raises:
        ValueError: something else, an unknown name, or a value out of range; TypeError: a value of another type.
    """
    values = {}
    for word in shlex.split(text):
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"settings are name=value separated by spaces, got {word!r}")
        values[name] = value
        if not isinstance(getattr(Settings, name, ""), str):  # "true" is text where text is wanted
            with suppress(json.JSONDecodeError):
                values[name] = json.loads(value)
    return Settings.from_dict(values)


def shown_clips(text: str, labels: Sequence[int]) -> list[int]:
    """The test clips that the numbers in "0 17 cat.mp4" name; without numbers the first clip of each of three actions.

    Raises:
        ValueError: a number that is not a clip's.
    """
    numbers = [int(word) for word in shlex.split(text) if word.isdecimal()]
    if any(number >= len(labels) for number in numbers):
        raise ValueError(f"clips must be numbers from 0 to {len(labels) - 1}, or files, got {text!r}")
    return numbers or [labels.index(label) for label in (0, 3, 4) if label in labels] or [0]


def trainings(
    network: str, seed: int, size: int = 128, overrides: str = "", device: str = "auto"
) -> tuple[RunConfig, RunConfig]:
    """The two trainings of a network on Arrow of Time: at half the size, and from there at `size`.

    The second starts from the first's checkpoint, which `train_all` fills in. It sees some of the first's scenes,
    drawn larger.

    Args:
        network: a name of `NETWORKS`.
        seed: of both.
        size: pixels, height and width of the second's clips and videos; the first's are half of that.
        overrides: of both, as in `recipes.run_config`.
        device: of both.

    Raises:
        ValueError: an unknown network or part.
    """
    check_choice("network", network, NETWORKS)
    model, parts = NETWORKS[network]
    both = {"seed": seed, "compute.device": device, "arrow.val_clips": 160, "arrow.difficulty": 0.0}
    half = size // 4 * 2  # even, as videos are
    first, second = (
        run_config(
            "arrow", model, "laptop", f"{parts} {overrides}",
            name=name, **both | own | {"data.size": side, "arrow.size": side},
        )
        for name, own, side in ((f"{network}_half", _HALF, half), (network, _WHOLE, size))
    )  # fmt: skip
    return first, second


def all_trainings(
    networks: str, seeds: int, size: int = 128, overrides: str = "", device: str = "auto"
) -> dict[tuple[str, int], tuple[RunConfig, RunConfig]]:
    """The `trainings` of each network that "CSN, CT-Net" names with each seed from 0: by name and seed.

    Raises:
        ValueError: no seed, an unknown network, or an unknown part.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    names = [name.strip() for name in networks.split(",")]
    return {(name, seed): trainings(name, seed, size, overrides, device) for name in names for seed in range(seeds)}


def train_all(
    pairs: Sequence[tuple[RunConfig, RunConfig]], out_dir: str | Path, jobs: int = 1
) -> Iterator[tuple[RunConfig, dict]]:
    """Do both trainings of each network, `jobs` networks side by side; finished runs are not done again.

    Yields:
        Each run and its `result.json`, both runs of a network when its second is done.

    Raises:
        ValueError: fewer than one job; else as `train.train`, when the runs beside it have ended.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_train_both, pair, out_dir) for pair in pairs]):
            yield from done.result()


def _train_both(pair: tuple[RunConfig, RunConfig], out_dir: str | Path) -> list[tuple[RunConfig, dict]]:
    small, large = pair
    first = train(small, RunFolder.of(small, out_dir).path)
    large = dataclasses.replace(large, start=files.portable(RunFolder.of(small, out_dir).checkpoint))
    return [(small, first), (large, train(large, RunFolder.of(large, out_dir).path))]
