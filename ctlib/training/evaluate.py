"""Testing: every view of every video is scored, views are averaged, and every video counts once."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader

from ctlib import checkpoints, cost, files
from ctlib.config import ComputeConfig, Config, DataConfig
from ctlib.data.catalog import Samples, refuse_missing
from ctlib.data.clips import SKIPPED, resolve_data, test_loader, travels_raw
from ctlib.data.sampling import check_fits
from ctlib.data.transforms import views_of
from ctlib.data.video import VideoError
from ctlib.data.workers import end_workers, one_line_errors
from ctlib.kernels import choice
from ctlib.models import check_finite, name_of
from ctlib.training.run import ALONE, make_accelerator

FORMAT = 1


@dataclass(frozen=True)
class Protocol(Config):
    """The network that scored a list, and how."""

    model: str  # a name of `models.MODELS`, or "custom"
    checkpoint: str  # `files.digest` of its file
    num_frames: int  # T
    size: int  # pixels, height and width of a clip
    short_side: int  # pixels, of a test frame before the crop
    sampling: str
    clips: int  # a video
    crops: int  # a clip
    precision: str  # fp32, bf16 or fp16
    gflops: float  # of one view, in the paper's convention
    params: int

    @property
    def views(self) -> int:
        return self.clips * self.crops


class Scores(NamedTuple):
    """The scores of each video of a list by a network, or by an ensemble of several, in the list's order.

    A video that could not be read, and was to be skipped, has the label -1 and counts nowhere.
    """

    logits: torch.Tensor  # float32 (videos, num_classes), the mean over views
    labels: torch.Tensor  # int64 (videos,)
    classes: tuple[str, ...] = ()  # names in label order
    fingerprint: str = ""  # of the list
    protocols: tuple[Protocol, ...] = ()  # one per network

    @property
    def skipped(self) -> int:
        """How many videos could not be read."""
        return int((self.labels == SKIPPED).sum())

    def topk(self, k: int) -> float:
        """Top-k accuracy over all videos read, in percent. `k` above the number of classes counts as all."""
        read = self.labels != SKIPPED
        highest = self.logits[read].topk(min(k, self.logits.shape[1])).indices
        hits = (highest == self.labels[read, None]).any(1)
        return round(100 * hits.float().mean().item(), 4)  # a float32, of which the rest is noise

    def predictions(self, samples: Samples) -> pd.DataFrame:
        """One row per video of the list: source, label (-1: not read), predicted, confidence (a probability)."""
        confidence, predicted = self.logits.softmax(1).max(1)
        return pd.DataFrame(
            {
                "source": [samples.path(index) for index in range(len(samples))],
                "label": self.labels.numpy(),
                "predicted": predicted.numpy(),
                "confidence": confidence.numpy().round(4),
            }
        )

    def save(self, path: str | Path) -> None:
        """Write them as a .npz of plain arrays and one JSON text; the file is whole or as it was."""
        about = {
            "format": FORMAT,
            "classes": self.classes,
            "fingerprint": self.fingerprint,
            "protocols": [protocol.to_dict() for protocol in self.protocols],
        }

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez(file, about=json.dumps(about), logits=self.logits.numpy(), labels=self.labels.numpy())

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, write)

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no file of scores, or a damaged one.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                about = json.loads(str(content["about"]))
                logits, labels = content["logits"], content["labels"]
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}, this version of ctlib reads {FORMAT}")
            if logits.dtype != np.float32 or labels.dtype != np.int64 or logits.shape[:1] != labels.shape:
                raise ValueError(f"logits {logits.dtype} {logits.shape}, labels {labels.dtype} {labels.shape}")
            if not np.isfinite(logits[labels != SKIPPED]).all():
                raise ValueError("scores that are not finite")
            protocols = tuple(Protocol.from_dict(values) for values in about["protocols"])
            arrays = torch.from_numpy(logits), torch.from_numpy(labels)
            return cls(*arrays, tuple(about["classes"]), about["fingerprint"], protocols)
        except FileNotFoundError:
            raise FileNotFoundError(f"no scores {path}") from None
        except Exception as error:  # what damaged bytes raise is up to the reader
            raise ValueError(f"{path} holds no scores, or is damaged ({files.one_line(error)})") from None


@torch.no_grad()
@one_line_errors()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    on_step: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score all videos of a test loader: logits averaged over their views.

    Every process returns the scores of all videos, which equal those of one process alone. Each batch is scored by one
    process; the copies that fill up the last batch are not scored.

    Args:
        model: takes (N, 3, T, H, W); in evaluation mode while it is scored.
        loader: gives (n, views, 3, T, H, W), or raw clips, and labels in the list's order; prepared by `accelerator`.
        accelerator: gathers the scores of the processes.
        on_step: called in every process with the batches it has done and their number.

    Raises:
        models.NotFiniteError: scores that are not finite.
        video.VideoError: a video that cannot be read, or none that can where they may be skipped.
    """
    samples = loader.dataset.samples
    # Not DDP's forward, which broadcasts buffers and so waits for processes that have nothing left to score.
    network = accelerator.unwrap_model(model)
    batch = loader.batch_sampler.batch_size
    parts = []
    # Blocks are compiled for training only.
    compiled = getattr(network, "blocks_are_compiled", False)
    stance = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    was_training = network.training
    network.eval()
    try:
        for step, (views, labels) in enumerate(loader):
            # Accelerate deals out batches in turn, and fills up the last round from the list's start.
            first = batch * (step * accelerator.num_processes + accelerator.process_index)
            views = views_of(views)
            views, labels = views[: max(0, len(samples) - first)], labels[: max(0, len(samples) - first)]
            if len(labels):
                with accelerator.autocast(), stance:
                    scores = network(views.flatten(0, 1)).float().unflatten(0, (len(labels), -1)).mean(1)
                # Labels as numbers: a tensor that a worker made holds a file open for as long as it lives.
                parts.append((first, scores.cpu(), labels.tolist()))
            if on_step is not None:
                on_step(step + 1, len(loader))
    finally:
        network.train(was_training)
    _, logits, labels = zip(*sorted(gather_object(parts), key=lambda part: part[0]), strict=True)
    logits, labels = torch.cat(logits), torch.tensor([label for part in labels for label in part])
    if (labels == SKIPPED).all():
        raise VideoError(
            f"none of the {len(samples)} test videos could be read: see the warnings above, or check-videos"
        )
    check_finite(logits.where((labels != SKIPPED)[:, None], 0.0), samples.path)
    return Scores(logits, labels, samples.classes, samples.fingerprint)


def views_at_once(micro_batch: int, on_cpu: bool) -> int:
    """How many views fit where training's micro-batch does; on a GPU more, as nothing is kept for a backward pass."""
    return micro_batch if on_cpu else 4 * micro_batch


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint to be tested on a list, and how."""

    checkpoint: str | Path  # of ours or of the authors (`checkpoints.load_any`)
    samples: Samples
    data: DataConfig  # size, views, and sampling (None: the network's); where the videos lie, `samples` says
    compute: ComputeConfig  # device, precision, threads, and in `micro_batch` the views at once (None: 64)
    released: str = ""  # the network behind a checkpoint of the authors
    num_frames: int | None = None  # T of such a checkpoint

    def load(self) -> checkpoints.Checkpoint:
        return checkpoints.load_any(self.checkpoint, self.samples.classes, self.released, self.num_frames)

    def loader(self, protocol: Protocol, raw: bool = False) -> DataLoader:
        data = dataclasses.replace(self.data, sampling=protocol.sampling)
        return test_loader(self.samples, protocol.num_frames, data, self.compute.micro_batch or 64, raw=raw)

    def protocol(self) -> Protocol:
        """What `score` will do.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: a checkpoint that cannot be read or has other classes than the list, or data that do not fit.
        """
        return self.protocol_of(self.load())

    def protocol_of(self, trained: checkpoints.Checkpoint) -> Protocol:
        """The same, of the checkpoint as `load` gives it."""
        network, num_frames = trained.model, trained.model.config.num_frames
        seen = trained.view and trained.view.sampling  # what the network was trained for comes before the list's own
        data = resolve_data(dataclasses.replace(self.data, sampling=self.data.sampling or seen), self.samples)
        check_fits(data.sampling, num_frames, data.clips)
        counted = cost.count(network, num_frames, data.size)
        return Protocol(
            model=name_of(network.config),
            checkpoint=files.digest(self.checkpoint),
            num_frames=num_frames,
            size=data.size,
            short_side=data.short_side,
            sampling=data.sampling,
            clips=data.clips,
            crops=data.crops,
            precision=ALONE.precision(self.compute),
            gflops=counted.gflops,
            params=counted.params,
        )


def score(evaluation: Evaluation, folder: str | Path, on_step: Callable[[int, int], None] | None = None) -> Scores:
    """Score a list with the network of a checkpoint and save the scores, or read them if they were saved before.

    Saved scores are recognised by the checkpoint's digest, the list's fingerprint and the protocol. Several processes
    may call this together (`processes.launch`); the first one writes.

    Args:
        evaluation: what is tested.
        folder: where scores are saved, one file per protocol.
        on_step: as in `evaluate`; not called if the scores are read.

    Raises:
        ValueError: as `Evaluation.protocol`, and for saved scores that are damaged.
        FileNotFoundError: videos that do not exist or are empty.
        OSError: a folder that cannot be written.
        video.VideoError: a video that cannot be read.
    """
    trained = evaluation.load()
    protocol = evaluation.protocol_of(trained)
    path = saved_path(folder, protocol, evaluation.samples)
    if path.is_file():
        return Scores.load(path)
    refuse_missing({"test": evaluation.samples}, evaluation.data)
    files.check_writable(path.parent)
    accelerator = make_accelerator(evaluation.compute, protocol.precision)
    network = accelerator.prepare_model(trained.model, evaluation_mode=True)
    loader = accelerator.prepare(evaluation.loader(protocol, travels_raw(accelerator.device)))
    try:
        with choice.using(evaluation.compute.kernels):
            scores = evaluate(network, loader, accelerator, on_step)
    finally:
        end_workers(loader)
    scores = scores._replace(protocols=(protocol,))
    if accelerator.is_main_process:
        scores.save(path)
    return scores


def saved_path(folder: str | Path, protocol: Protocol, samples: Samples) -> Path:
    """Where `score` saves the scores of this list under this protocol."""
    key = hashlib.sha256(json.dumps([protocol.to_dict(), samples.fingerprint]).encode()).hexdigest()[:12]
    return Path(folder) / f"{protocol.model}_{protocol.num_frames}x{protocol.crops}x{protocol.clips}_{key}.npz"


def ensemble(parts: Sequence[Scores]) -> Scores:
    """The scores of several networks averaged as logits, video by video (CT-Net_EN, Table 6).

    Raises:
        ValueError: fewer than one part, or parts that scored other lists: other videos or classes.
    """
    if not parts:
        raise ValueError("an ensemble needs the scores of at least one network")
    first = parts[0]
    for number, part in enumerate(parts[1:], start=2):
        if part.fingerprint != first.fingerprint or not torch.equal(part.labels, first.labels):
            raise ValueError(
                f"networks 1 and {number} of the ensemble scored other videos or classes: lists {first.fingerprint} "
                f"({len(first.labels)} videos) and {part.fingerprint} ({len(part.labels)})"
            )
    logits = torch.stack([part.logits for part in parts]).mean(0)
    return first._replace(logits=logits, protocols=sum((part.protocols for part in parts), ()))
