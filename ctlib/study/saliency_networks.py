"""The networks of the study whose saliency is measured where no others are given."""

import multiprocessing
import os
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from ctlib import files
from ctlib.config import check_choice
from ctlib.data.catalog import Samples
from ctlib.display.parameters import given_files, project_path
from ctlib.study.jobs import Job, jobs
from ctlib.study.scales import Study
from ctlib.training.train import train

# Figure 3's three, C3D, and TSN, which has no temporal modelling: by their table and row.
NETWORKS = {
    "TSN": ("2e", "+0 (TSN)"),
    "C3D": ("2a", "C3D-Module"),
    "R(2+1)D": ("2a", "R(2+1)D-Module"),
    "CSN": ("2a", "CSN-Module"),
    "CT-Net": ("2g", "+CT-Module+PWConv+TE"),
}


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


def of_study(networks: str, num_seeds: int, study: Study) -> dict[tuple[str, int], Job]:
    """The study's runs of the networks that "CSN, CT-Net" names, with each seed from 0: by name and seed.

    Raises:
        ValueError: no seed, an unknown network, or what `jobs.jobs` raises.
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}")
    found = {}
    for name in (word.strip() for word in networks.split(",")):
        check_choice("network", name, NETWORKS)
        table, row = NETWORKS[name]
        found |= {(name, job.config.seed): job for job in jobs(study, [table], [row], range(num_seeds))}
    return found


def train_all(wanted: Sequence[Job], out_dir: str | Path) -> Iterator[tuple[Job, dict]]:
    """Do the runs that are not finished, one per CPU core at once.

    Yields:
        Each run and its `result.json`: first those that were finished, then each when it is.

    Raises:
        ValueError: as `train.train`, when the runs beside it have ended.
    """
    left = []
    for job in wanted:
        folder = job.folder(out_dir)
        if folder.is_finished(job.config):
            yield job, folder.result(("top1", "seconds"))
        else:
            left.append(job)
    if left:
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(train, job.config, job.folder(out_dir).path): job for job in left}
            for done in as_completed(running):
                yield running[done], done.result()


def first(samples: Samples, count: int) -> Samples:
    """The first videos of a list. In those of Arrow of Time the classes take turns. ValueError without any."""
    if count < 1:
        raise ValueError(f"num_clips must be at least 1, got {count}")
    rows = [(samples.path(index), *samples[index][1:]) for index in range(min(count, len(samples)))]
    return Samples(rows, samples.classes, samples.root, samples.sampling, samples.flip, made_from=samples.made_from)
