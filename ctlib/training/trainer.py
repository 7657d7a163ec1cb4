"""The trainer: one run under way, in each of its processes, step by step (appendix A.1).

A batch is cut into micro-batches, which the processes share and take in turns. Everything random is
keyed by what it is drawn for, so neither how the batch is cut, nor a stop and a new start, changes
what a step learns; but for the size of a micro-batch, which is what a batch norm sees.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ctlib import checkpoints, cost, files
from ctlib.config import DataConfig, RunConfig
from ctlib.data.catalog import Samples
from ctlib.data.clips import SKIPPED, end_workers, test_loader, train_loader
from ctlib.models import VideoClassifier, build_model, freeze_backbone, recompute_blocks, use_channels_last
from ctlib.training import interrupt, records
from ctlib.training.device import precision_of
from ctlib.training.evaluate import Scores, evaluate
from ctlib.training.recipes import learning_rate, parameter_groups
from ctlib.training.snapshots import SavedStates


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, and why."""


class Trainer:
    """A run under way, in one of its processes: the network, what trains it, and how far it is.

    `config` leaves nothing open (`settled`).
    """

    def __init__(self, config: RunConfig, samples: dict[str, Samples], accelerator: Accelerator):
        self.config, self.samples, self.accelerator = config, samples, accelerator
        recipe, compute = config.recipe, config.compute
        if compute.sync_batch_norm and accelerator.device.type == "cpu":
            raise ValueError("sync_batch_norm needs GPUs, and there is none")
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        self.processes = accelerator.num_processes
        self.micro_batch = compute.micro_batch
        self.accumulated = recipe.batch // (self.micro_batch * self.processes)
        accelerator.gradient_accumulation_steps = self.accumulated

        set_seed(config.seed)
        model = make_network(config, samples["train"].classes)
        self.cost = cost.count(model, config.model.num_frames, config.data.size)
        if compute.sync_batch_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        optimizer = torch.optim.SGD(
            parameter_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum
        )
        frames, data = config.model.num_frames, config.data
        trainset = train_loader(samples["train"], frames, data, recipe.batch, config.seed, self.micro_batch)
        testset = test_loader(samples["val"], frames, data, self.micro_batch)
        self.sampler = trainset.sampler
        self.steps_an_epoch = len(self.sampler) // recipe.batch
        if self.processes > 1:  # where they differ, it is in sizes of 1
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # torch renames broadcast_buffers, Accelerate does not yet
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            prepared = accelerator.prepare(model, optimizer, trainset, testset)
        self.model, self.optimizer, self.trainset, self.testset = prepared
        self.network = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.statistics = _RunningStatistics(self.network, self.accumulated, accelerator)
        # How far the run is.
        self.epoch, self.step = 0, 0  # epochs finished, and steps done in the one under way
        self.totals = dict.fromkeys(("loss", "right", "read", "skipped"), 0.0)  # of the epoch under way
        self.seconds = {"run": 0.0, "epoch": 0.0, "steps": 0.0}  # spent, in all sessions
        self.history: list[dict] = []
        self.sessions: list[dict] = []
        self.scores: Scores | None = None  # of the last epoch

    # The record and the states on disk.

    def open(self, folder: records.RunFolder) -> None:
        """Begin, or go on from the last state in the folder."""
        self.folder = folder
        self.states = SavedStates(folder.states, self.config)
        first = self.accelerator.is_main_process
        (state,) = from_first([self.states.load() if first else None])
        if state is not None:
            self._restore(state)
        self.began = self.saved = time.perf_counter()
        session = {"epoch": self.epoch, "step": self.step, "processes": self.processes}
        told = records.provenance(self.accelerator.device)
        self.sessions.append({**session, **{part: told[part] for part in ("commit", "versions", "hardware")}})
        if self.config.compute.tensorboard:
            at = self.epoch * self.steps_an_epoch + self.step
            self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": at}})
        if first:
            folder.start(self.config)
            folder.write_history(self.history)

    def save(self) -> None:
        """Write the state; it is the same in every process, so the first one's will do."""
        self.saved = time.perf_counter()
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.states.save(
            {
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "totals": self.totals,
                "seconds": {**self.seconds, "run": self.spent()},
                "history": self.history,
                "sessions": self.sessions,
            }
        )

    def _restore(self, state: dict) -> None:
        self.network.load_state_dict(state["model"])
        self.statistics.begin_step()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for part in ("epoch", "step", "totals", "seconds", "history", "sessions"):
            setattr(self, part, state[part])

    def spent(self) -> float:
        return self.seconds["run"] + time.perf_counter() - self.began

    def close(self) -> None:
        """Let go of memory and loader processes, which a notebook that holds an error would keep."""
        if self.config.compute.tensorboard:
            for tracker in self.accelerator.trackers:
                tracker.finish()
        end_workers(self.trainset)
        end_workers(self.testset)
        self.model = self.network = self.optimizer = self.trainset = self.testset = self.statistics = None
        self.accelerator.free_memory()

    # An epoch.

    def train_epoch(self, on_step: Callable | None = None) -> None:
        """The steps of this epoch that are still to do."""
        began = time.perf_counter()
        spent = dict(self.seconds)
        self.model.train()
        self.sampler.first = self.step * self.config.recipe.batch
        self.trainset.set_epoch(self.epoch)
        self._begin_step()
        for index, (clips, labels) in enumerate(self.trainset if len(self.sampler) else ()):
            with self.accelerator.accumulate(self.model):
                self.sums += self._forward_backward(clips, labels, index % self.accumulated)
                if self.accelerator.sync_gradients:
                    stopping = self._update()
                    self._begin_step()
            if self.accelerator.sync_gradients:
                now = time.perf_counter()
                for part in ("epoch", "steps"):
                    self.seconds[part] = spent[part] + now - began
                done = self.epoch * self.steps_an_epoch + self.step
                call(on_step, done, self.config.recipe.epochs * self.steps_an_epoch, self.loss)
                if stopping:
                    self._stop()
                if now - self.saved >= 60 * self.config.compute.save_minutes:
                    self.save()
        self.save()

    def _forward_backward(self, clips: torch.Tensor, labels: torch.Tensor, turn: int) -> torch.Tensor:
        """Gradients of one micro-batch; its sums of the loss and of clips right.

        A clip that could not be read has no part in it; the step's mean is over the whole batch all the same.
        """
        step = self.epoch * self.steps_an_epoch + self.step
        _key_dropout(self.config.seed, step, turn * self.processes + self.accelerator.process_index)
        read = labels != SKIPPED
        unread = 0 if self.config.data.on_error == "stop" else int((~read).sum())
        if 0 < unread < len(labels):
            clips, labels = clips[read], labels[read]
        # Where nothing was read the other processes wait for a backward pass all the same: one of no gradient, in
        # which the batch norms learn nothing from the zeros that stand for clips.
        nothing = unread == self.micro_batch
        if nothing:
            self.model.eval()
        with self.accelerator.autocast():
            logits = self.model(clips)
            loss = F.cross_entropy(
                logits,
                labels,
                reduction="sum",
                ignore_index=SKIPPED,
                label_smoothing=self.config.recipe.label_smoothing,
            )
        if nothing:
            self.model.train()
        self.accelerator.backward(loss / self.micro_batch)
        self.statistics.after_micro_batch()
        self.unread += unread
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == labels).sum()]).double()

    def _begin_step(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # of loss, and of clips right
        self.unread = 0

    def _update(self) -> bool:
        """The optimizer's step, once a batch is through; whether a process was asked to stop."""
        recipe = self.config.recipe
        at = self.epoch * self.steps_an_epoch + self.step
        self.rate = learning_rate(recipe, at, self.steps_an_epoch)
        told = torch.tensor([self.unread, interrupt.asked()], dtype=torch.float64, device=self.sums.device)
        loss, right, skipped, stopping = self.accelerator.reduce(torch.cat([self.sums, told]), "sum").tolist()
        read = recipe.batch - skipped
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {at + 1} (epoch {self.epoch + 1}, learning rate {self.rate:.4g}): "
                "training stopped; a lower learning rate or a longer warm-up may help"
            )
        for part, value in zip(self.totals, (loss, right, read, skipped), strict=True):
            self.totals[part] += value
        _refuse_many(int(self.totals["skipped"]), len(self.samples["train"]), self.config.data, "training")
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["scale"]
        self.accelerator.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.statistics.after_step()
        self.step += 1
        self.loss = loss / read if read else math.nan
        if self.config.compute.tensorboard:
            self.accelerator.log({"train/loss": self.loss, "train/lr": self.rate}, step=at + 1)
        return stopping > 0

    def _stop_at_once(self, *_) -> None:
        """While testing, an only process need not wait: the state after the last step is on disk."""
        if interrupt.asked() and self.processes == 1:
            self._stop()

    def _stop(self) -> None:
        self.save()
        steps = self.config.recipe.epochs * self.steps_an_epoch
        done = self.epoch * self.steps_an_epoch + self.step
        raise interrupt.Interrupted(
            f"stopped after step {done} of {steps} (epoch {self.epoch + 1}) and saved in {self.folder.path}: "
            "the same run goes on from there"
        )

    def test(self) -> Scores:
        """What the network, as it is, says of the test videos; of the last epoch it may be known."""
        if self.scores is None:
            self.scores = evaluate(self.model, self.testset, self.accelerator, on_step=self._stop_at_once)
            _refuse_many(self.scores.skipped, len(self.samples["val"]), self.config.data, "test")
        return self.scores

    def test_epoch(self) -> None:
        """Test the network and close the epoch with its line of the history."""
        began = time.perf_counter()
        self.scores = None
        scores = self.test()
        totals, steps = self.totals, self.steps_an_epoch
        row = {
            "epoch": self.epoch + 1,
            "lr": learning_rate(self.config.recipe, (self.epoch + 1) * steps - 1, steps),
            "loss": totals["loss"] / totals["read"] if totals["read"] else math.nan,
            "train_top1": 100 * totals["right"] / totals["read"] if totals["read"] else math.nan,
            "skipped": int(totals["skipped"]),
            "top1": scores.topk(1),
            "top5": scores.topk(5),
            "seconds": self.seconds["epoch"] + time.perf_counter() - began,
            "clips_per_second": (totals["read"] + totals["skipped"]) / self.seconds["steps"],
        }
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.totals = dict.fromkeys(self.totals, 0.0)
        self.seconds |= {"epoch": 0.0, "steps": 0.0}
        self.save()
        if self.accelerator.is_main_process:
            self.folder.write_history(self.history)
        if self.config.compute.tensorboard:
            tested = {f"test/{name}": row[name] for name in ("top1", "top5")}
            self.accelerator.log({**tested, "train/top1": row["train_top1"]}, step=self.epoch * steps)


class _RunningStatistics:
    """Batch norms' running statistics, which follow steps: one update a step, by the mean over its micro-batches.

    So however a batch is shared out, over processes and in turns, the network stays one and the same.
    """

    def __init__(self, network: nn.Module, accumulated: int, accelerator: Accelerator):
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.running = [part for norm in norms for part in (norm.running_mean, norm.running_var)]
        self.counters = [norm.num_batches_tracked for norm in norms]
        self.accumulated, self.accelerator = accumulated, accelerator
        self.split = accumulated * accelerator.num_processes > 1
        self.begin_step()

    def begin_step(self) -> None:
        if self.split:
            self.before = torch.cat(self.running)
            self.counted = torch.stack(self.counters)
            self.sums = torch.zeros_like(self.before)

    def after_micro_batch(self) -> None:
        if self.split:
            self.sums += torch.cat(self.running)
            self._set(self.before)

    def after_step(self) -> None:
        if self.split:
            self._set(self.accelerator.reduce(self.sums / self.accumulated, "mean"))
            for counter, count in zip(self.counters, self.counted + 1, strict=True):
                counter.copy_(count)
            self.begin_step()

    def _set(self, values: torch.Tensor) -> None:
        torch._foreach_copy_(self.running, list(values.split([len(part) for part in self.running])))


def identified(config: RunConfig, samples: dict[str, Samples]) -> RunConfig:
    """The run with what tells its files from others: digests of the lists and of the checkpoint that it starts from."""
    lists = f"{samples['train'].fingerprint}-{samples['val'].fingerprint}"
    start = files.digest(config.start) if config.start else ""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fingerprint=lists), start_digest=start)


def settled(config: RunConfig, processes: int) -> RunConfig:
    """The run with what it leaves to the machine: the micro-batch and the precision."""
    compute = dataclasses.replace(
        config.compute, micro_batch=micro_batch_of(config, processes), precision=precision_of(config.compute)
    )
    return dataclasses.replace(config, compute=compute)


def make_network(config: RunConfig, classes: Sequence[str]) -> VideoClassifier:
    """The network that a run begins with, laid out and frozen as its configuration says."""
    weights = None if config.start else config.model.weights  # a checkpoint's take the place of published ones
    model = build_model(dataclasses.replace(config.model, weights=weights))
    if config.start:
        checkpoints.start_from(config.start, model, classes)
    model.config = config.model
    use_channels_last(model, config.compute.channels_last)
    recompute_blocks(model, config.compute.recompute)
    if config.recipe.frozen == "backbone":
        freeze_backbone(model)
    return model


def micro_batch_of(config: RunConfig, processes: int) -> int:
    """Clips that each process takes at once."""
    batch = config.recipe.batch
    if config.compute.micro_batch is None and batch % processes == 0:
        return batch // processes
    micro_batch = config.compute.micro_batch
    if micro_batch is None or batch % (micro_batch * processes):
        parts = (
            f"micro-batches of {micro_batch} on {processes} process(es)" if micro_batch else f"{processes} processes"
        )
        raise ValueError(f"a batch of {batch} cannot be shared out evenly to {parts}: choose numbers that divide it")
    return micro_batch


def _key_dropout(seed: int, step: int, micro: int) -> None:
    """What dropout draws depends on the seed, the step and the micro-batch alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, micro]).generate_state(1, np.uint64)[0]))


def from_first(values: list) -> list:
    """The first process's values in all of them."""
    return broadcast_object_list(values)


def call(callback: Callable | None, *values) -> None:
    if callback is not None:
        callback(*values)


def _refuse_many(skipped: int, videos: int, data: DataConfig, which: str) -> None:
    if 100 * skipped > data.max_skipped * videos:
        raise TrainingError(
            f"{skipped} of the {videos} {which} videos could not be read, more than the {data.max_skipped} % that may "
            "be skipped: see the warnings above for their names, or run check-videos"
        )
