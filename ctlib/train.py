"""Training by the paper's recipe (appendix A.1), on a laptop's CPU, a GPU, or many.

SGD with momentum; the learning rate warms up linearly and then follows a cosine to zero. Hugging
Face Accelerate carries device, precision, accumulation and distribution. A run is recorded in its
folder; one that is finished is not run again, and one that was stopped or killed goes on from its
last saved state and ends as if it had never been.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ctlib import checkpoints, cost, interrupt, parallel, runs
from ctlib.config import ComputeConfig, DataConfig, RunConfig
from ctlib.data.catalog import Samples, load_samples
from ctlib.data.clips import SKIPPED, test_loader, train_loader
from ctlib.evaluate import Scores, evaluate
from ctlib.models import build_model, freeze_trunk, name_of
from ctlib.recipes import learning_rate, parameter_groups
from ctlib.resume import SavedStates


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, and why."""


def train(
    config: RunConfig,
    folder: str | Path,
    processes: int = 1,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> dict:
    """Train a network, test it after each epoch, and record the run; or go on with it; or find it finished.

    What is reported is the network after the last epoch: none is chosen by its test accuracy.
    Under `torchrun` or `accelerate launch`, call it in each process. Everything random depends on
    the seed and on what it is drawn for, and gradients are those of whole batches however they
    are split: processes and accumulation change what a batch norm sees (`ComputeConfig.micro_batch`)
    and nothing else.

    Args:
        config: the run.
        folder: where the record goes.
        processes: how many to start on this machine, each on a GPU of its own or, without GPUs, on the CPU;
            0: as many as there are GPUs.
        on_step: called with the steps done, their number, and the step's loss; with several processes from
            another thread, as `on_epoch` is.
        on_epoch: called with each line of the history; when a run goes on, first with the lines that it has.

    Returns:
        The record's `result.json`.

    Raises:
        ValueError: parameters that do not fit the data or the machine, or a folder that holds another run.
        TrainingError: a loss that is not finite, or more unreadable videos than may be skipped.
        ResumeError: a state that cannot be written, or states of which none can be used.
        Interrupted: it was asked to stop (`interrupt.stop`, SIGINT, SIGTERM), and has saved its state.
        video.VideoError: a video that cannot be read.
    """
    processes = parallel.wanted(processes, config.compute.device)
    if processes == 1:
        return _run(config, Path(folder), on_step, on_epoch)
    listeners = {"step": on_step, "epoch": on_epoch}

    def listen(kind: str, *values) -> None:
        if listeners[kind] is not None:
            listeners[kind](*values)

    return parallel.launch(_run_and_tell, config, Path(folder), processes=processes, listen=listen)


def _run_and_tell(config: RunConfig, folder: Path, tell: Callable) -> dict:
    return _run(config, folder, lambda *step: tell("step", *step), lambda row: tell("epoch", row))


def _run(config: RunConfig, folder: Path, on_step, on_epoch) -> dict:
    """`train` in one process, alone or among others."""
    samples = {
        split: load_samples(config.data.name, config.data.root, split, **config.data.options())
        for split in ("train", "val")
    }
    config = _completed(config, samples)
    accelerator = _accelerator(config.compute, folder)
    _refuse_differing_lists(config.data.fingerprint)
    folder = runs.RunFolder(folder)
    # What lies on disk is the first process's to judge: the others may be on machines that do not see it.
    (found,) = _from_first([folder.result() if accelerator.is_main_process and folder.is_finished(config) else None])
    if found is not None:
        return found
    if len(samples["train"].classes) != config.model.num_classes:
        raise ValueError(
            f"the model has {config.model.num_classes} classes, {config.data.name} has {len(samples['train'].classes)}"
        )
    trainer = _Trainer(config, samples, accelerator)
    first = accelerator.is_main_process
    with folder.locked() if first else nullcontext(), interrupt.deferred(alone=accelerator.num_processes == 1):
        trainer.open(folder)
        for row in trainer.history if first else ():
            _call(on_epoch, row)
        while trainer.epoch < config.recipe.epochs:
            trainer.train_epoch(on_step if first else None)
            trainer.test_epoch()
            if first:
                _call(on_epoch, trainer.history[-1])
        return trainer.finish()


def _call(callback: Callable | None, *values) -> None:
    if callback is not None:
        callback(*values)


class _Trainer:
    """A run under way, in one of its processes: the network, what trains it, and how far it is."""

    def __init__(self, config: RunConfig, samples: dict[str, Samples], accelerator: Accelerator):
        self.config, self.samples, self.accelerator = config, samples, accelerator
        recipe, compute = config.recipe, config.compute
        self.processes = accelerator.num_processes
        self.micro_batch = _micro_batch(config, self.processes)
        self.accumulated = recipe.batch // (self.micro_batch * self.processes)
        accelerator.gradient_accumulation_steps = self.accumulated

        set_seed(config.seed)
        self.classes = samples["train"].classes
        model = build_model(config.model)
        self.cost = cost.count(model, config.model.num_frames, config.data.size)
        if recipe.frozen == "trunk":
            freeze_trunk(model)
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
        with warnings.catch_warnings():  # torch renames broadcast_buffers, Accelerate does not yet
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            prepared = accelerator.prepare(model, optimizer, trainset, testset)
        self.model, self.optimizer, self.trainset, self.testset = prepared
        self.network = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.norms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
        # How far the run is.
        self.epoch, self.step = 0, 0  # epochs finished, and steps done in the one under way
        self.totals = dict.fromkeys(("loss", "right", "read", "skipped"), 0.0)  # of the epoch under way
        self.seconds = {"run": 0.0, "epoch": 0.0, "steps": 0.0}  # spent, in all sessions
        self.history: list[dict] = []
        self.sessions: list[dict] = []
        self.scores: Scores | None = None  # of the last epoch

    # The record and the states on disk.

    def open(self, folder: runs.RunFolder) -> None:
        """Begin, or go on from the last state in the folder."""
        self.folder = folder
        identity = {"parameters": runs.identity(self.config), "micro_batch": self.micro_batch}
        self.states = SavedStates(folder.states, identity)
        first = self.accelerator.is_main_process
        (state,) = _from_first([self.states.load() if first else None])
        if state is not None:
            self._restore(state)
        self.began = self.saved = time.perf_counter()
        session = {"epoch": self.epoch, "step": self.step, "processes": self.processes}
        self.sessions.append({**session, **runs.provenance(self.accelerator.device)})
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
                "seconds": {**self.seconds, "run": self._seconds()},
                "history": self.history,
                "sessions": self.sessions,
            }
        )

    def _restore(self, state: dict) -> None:
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for part in ("epoch", "step", "totals", "seconds", "history", "sessions"):
            setattr(self, part, state[part])

    def _seconds(self) -> float:
        return self.seconds["run"] + time.perf_counter() - self.began

    # An epoch.

    def train_epoch(self, on_step: Callable | None = None) -> None:
        """The steps of this epoch that are still to do."""
        began = time.perf_counter()
        spent = dict(self.seconds)
        self.model.train()
        self.sampler.first = self.step * self.config.recipe.batch
        self.trainset.set_epoch(self.epoch)
        sums = self._no_sums()
        for index, (clips, labels) in enumerate(self.trainset if len(self.sampler) else ()):
            with self.accelerator.accumulate(self.model):
                sums += self._forward_backward(clips, labels, index % self.accumulated)
                if self.accelerator.sync_gradients:
                    stopping = self._update(sums)
                    sums = self._no_sums()
            if self.accelerator.sync_gradients:
                now = time.perf_counter()
                for part in ("epoch", "steps"):
                    self.seconds[part] = spent[part] + now - began
                done = self.epoch * self.steps_an_epoch + self.step
                _call(on_step, done, self.config.recipe.epochs * self.steps_an_epoch, self.loss)
                if stopping:
                    self._stop()
                if now - self.saved >= 60 * self.config.compute.save_minutes:
                    self.save()
        self.save()

    def _forward_backward(self, clips: torch.Tensor, labels: torch.Tensor, turn: int) -> torch.Tensor:
        """Gradients of one micro-batch; its sums: loss, clips right, clips read, clips skipped, wishes to stop.

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
        right = (logits.detach().argmax(1) == labels).sum()
        counts = torch.tensor([self.micro_batch - unread, unread, interrupt.asked()], device=loss.device)
        return torch.cat([torch.stack([loss.detach(), right]), counts]).double()

    def _no_sums(self) -> torch.Tensor:
        return torch.zeros(5, dtype=torch.float64, device=self.accelerator.device)

    def _update(self, sums: torch.Tensor) -> bool:
        """The optimizer's step, once a batch is through; whether a process was asked to stop."""
        recipe = self.config.recipe
        at = self.epoch * self.steps_an_epoch + self.step
        self.rate = learning_rate(recipe, at, self.steps_an_epoch)
        loss, right, read, skipped, stopping = self.accelerator.reduce(sums, "sum").tolist()
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
        self._average_statistics()
        self.step += 1
        self.loss = loss / read if read else math.nan
        if self.config.compute.tensorboard:
            self.accelerator.log({"train/loss": self.loss, "train/lr": self.rate}, step=at + 1)
        return stopping > 0

    def _average_statistics(self) -> None:
        """Running statistics of batch norms become their mean over the processes, so that these stay one network."""
        if self.processes == 1 or self.config.compute.sync_batch_norm:
            return
        statistics = [part for norm in self.norms for part in (norm.running_mean, norm.running_var)]
        mean = self.accelerator.reduce(torch.cat(statistics), "mean")
        for part, value in zip(statistics, mean.split([len(part) for part in statistics]), strict=True):
            part.copy_(value)

    def _stop(self) -> None:
        self.save()
        steps = self.config.recipe.epochs * self.steps_an_epoch
        done = self.epoch * self.steps_an_epoch + self.step
        raise interrupt.Interrupted(
            f"stopped after step {done} of {steps} (epoch {self.epoch + 1}) and saved in {self.folder.path}: "
            "the same run goes on from there"
        )

    def test_epoch(self) -> None:
        """Test the network and close the epoch with its line of the history."""
        began = time.perf_counter()
        self._test()
        totals, steps = self.totals, self.steps_an_epoch
        row = {
            "epoch": self.epoch + 1,
            "lr": learning_rate(self.config.recipe, (self.epoch + 1) * steps - 1, steps),
            "loss": totals["loss"] / totals["read"] if totals["read"] else math.nan,
            "train_top1": 100 * totals["right"] / totals["read"] if totals["read"] else math.nan,
            "skipped": int(totals["skipped"]),
            "top1": self.scores.topk(1),
            "top5": self.scores.topk(5),
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

    def _test(self) -> None:
        self.scores = evaluate(self.model, self.testset, self.accelerator)
        _refuse_many(self.scores.skipped, len(self.samples["val"]), self.config.data, "test")

    def finish(self) -> dict:
        """Write down what came out, and remove the states."""
        if self.scores is None:  # the run had been killed after its last epoch
            self._test()
        config, provenance = self.config, runs.provenance(self.accelerator.device)
        result = {
            **_protocol(config, self.samples["train"], self.samples["val"]),
            "short_side": self.testset.dataset.short_side,
            "train_skipped": max(row["skipped"] for row in self.history),
            "skipped": self.scores.skipped,
            "top1": self.scores.topk(1),
            "top5": self.scores.topk(5),
            "gflops": self.cost.gflops,
            "params": self.cost.params,
            "seconds": self._seconds(),
            "precision": {"no": "fp32"}.get(self.accelerator.mixed_precision, self.accelerator.mixed_precision),
            "batch": config.recipe.batch,
            "micro_batch": self.micro_batch,
            "processes": self.processes,
            **provenance,
            "sessions": self.sessions,
        }
        if self.config.compute.tensorboard:
            self.accelerator.end_training()
        if self.accelerator.is_main_process:
            checkpoints.save(self.folder.checkpoint, self.network, self.classes)
            self.folder.finish(result, _predictions(self.samples["val"], self.scores))
            self.states.clear()
        return result


def _accelerator(compute: ComputeConfig, folder: Path) -> Accelerator:
    # A notebook's second run may differ in precision or device, and one that was stopped leaves its loader behind.
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        cpu=compute.device == "cpu",
        mixed_precision=_precision(compute),
        dynamo_backend=None if compute.compile == "none" else compute.compile,
        log_with="tensorboard" if compute.tensorboard else None,
        project_dir=folder if compute.tensorboard else None,
        # Buffers are kept equal after each step (`_average_statistics`), by mean and not by the first process's.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if compute.threads:
        torch.set_num_threads(compute.threads)
    if compute.sync_batch_norm and accelerator.device.type == "cpu":
        raise ValueError("sync_batch_norm needs GPUs, and there is none")
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    return accelerator


def _micro_batch(config: RunConfig, processes: int) -> int:
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


def _from_first(values: list) -> list:
    """The first process's values in all of them."""
    return broadcast_object_list(values)


def _completed(config: RunConfig, samples: dict[str, Samples]) -> RunConfig:
    """The run with what its files tell: digests of the lists and of the checkpoint that it starts from."""
    lists = f"{samples['train'].fingerprint}-{samples['val'].fingerprint}"
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fingerprint=lists))


def _refuse_differing_lists(fingerprint: str) -> None:
    found = gather_object([fingerprint])
    if len(set(found)) > 1:
        raise ValueError(f"the processes read different lists: {', '.join(sorted(set(found)))}")


def _refuse_many(skipped: int, videos: int, data: DataConfig, which: str) -> None:
    if 100 * skipped > data.max_skipped * videos:
        raise TrainingError(
            f"{skipped} of the {videos} {which} videos could not be read, more than the {data.max_skipped} % that may "
            "be skipped: see the warnings above for their names, or run check-videos"
        )


def _precision(compute: ComputeConfig) -> str:
    """Accelerate's name of the precision; auto is fp32 on a CPU, and bf16 or else fp16 on a GPU."""
    if compute.precision == "auto":
        if compute.device == "cpu" or not torch.cuda.is_available():
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"fp32": "no"}.get(compute.precision, compute.precision)


def _protocol(config: RunConfig, train_samples: Samples, test_samples: Samples) -> dict:
    """What the accuracies were measured on, and how."""
    return {
        "name": config.name,
        "model": name_of(config.model),
        "data": config.data.name,
        "fingerprint": config.data.fingerprint,
        "train_videos": len(train_samples),
        "train_listed": train_samples.listed,
        "videos": len(test_samples),
        "listed": test_samples.listed,
        "sampling": config.data.sampling or test_samples.sampling,
        "flip": train_samples.flip if config.data.flip is None else config.data.flip,
        "num_frames": config.model.num_frames,
        "size": config.data.size,
        "clips": config.data.clips,
        "crops": config.data.crops,
        "averaged": "logits",
        "seed": config.seed,
        "epochs": config.recipe.epochs,
    }


def _predictions(samples: Samples, scores: Scores) -> pd.DataFrame:
    confidence, predicted = scores.logits.softmax(1).max(1)
    return pd.DataFrame(
        {
            "source": [samples.path(index) for index in range(len(samples))],
            "label": scores.labels.numpy(),
            "predicted": predicted.numpy(),
            "confidence": confidence.numpy().round(4),
        }
    )
