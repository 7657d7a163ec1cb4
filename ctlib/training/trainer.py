"""The trainer: one run under way, in each of its processes, step by step (appendix A.1).

A batch is divided into micro-batches, which the processes share and take in turn. Everything random is keyed by what it
is drawn for. So a step learns the same however its batch is divided, and after a resumption. Only the size of a
micro-batch matters, as a batch norm sees one micro-batch.
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.nn import functional as F

from ctlib import cost
from ctlib.config import DataConfig
from ctlib.data import cache
from ctlib.data.clips import SKIPPED, test_loader, train_loader, travels_raw
from ctlib.data.transforms import views_of
from ctlib.data.workers import end_workers, one_line_errors
from ctlib.files import OneLineError
from ctlib.kernels import choice
from ctlib.kernels.graph import StepGraph, UpdateGraph, untouched
from ctlib.models import NotFiniteError, compile_blocks
from ctlib.training import processes, records
from ctlib.training.evaluate import Scores, evaluate, views_at_once
from ctlib.training.network import ExtraLoss, RunningStatistics, make_network
from ctlib.training.recipes import learning_rate, parameter_groups
from ctlib.training.run import Run
from ctlib.training.snapshots import Snapshots
from ctlib.training.tracking import begin_log
from ctlib.weights import tensors


class TrainingError(OneLineError, RuntimeError):
    """Training cannot continue; the message says at which step, and why."""


class Trainer:
    """A run under way, in one of its processes: the network, what trains it, and how far it is."""

    def __init__(self, run: Run, accelerator: Accelerator, folder: records.RunFolder):
        self.run, self.config, self.accelerator, self.folder = run, run.config, accelerator, folder
        recipe, data, frames = run.config.recipe, run.data, run.model.num_frames
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        accelerator.gradient_accumulation_steps = run.micro_batches_per_step
        model = make_network(run)
        if accelerator.is_main_process:
            folder.check_room(sum(value.nbytes for value in model.state_dict().values()))
        self.cost = cost.count(model, frames, data.size)
        if self.config.compute.sync_batch_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        on_cpu = accelerator.device.type == "cpu"
        # A fused step that a scaler skips at first leaves momentum that nobody wrote.
        self.fused = not on_cpu and accelerator.scaler is None
        optimizer = torch.optim.SGD(
            parameter_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum, fused=self.fused
        )
        cache.check_room(run.samples.values(), data)
        kept = {split: cache.keep(samples, data) for split, samples in run.samples.items()}
        raw = travels_raw(accelerator.device)
        trainset = train_loader(
            run.samples["train"], frames, data, recipe.batch, self.config.seed, run.micro_batch, kept["train"], raw
        )
        testset = test_loader(
            run.samples["val"], frames, data, views_at_once(run.micro_batch, on_cpu), kept["val"], raw
        )
        self.sampler = trainset.sampler
        self.steps_per_epoch = len(self.sampler) // recipe.batch
        self.tracked = run.config.compute.tracker != "none"
        if run.processes > 1:  # where strides differ, it is in sizes of 1
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # torch renames broadcast_buffers, Accelerate does not yet
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            prepared = accelerator.prepare(model, optimizer, trainset, testset)
        self.model, self.optimizer, self.trainset, self.testset = prepared
        self.network = accelerator.unwrap_model(self.model)
        self.statistics = RunningStatistics(self.network, run.micro_batches_per_step, accelerator)
        self.extra = ExtraLoss(self.network.backbone) if self.network.backbone.extra_loss else None
        self.pass_both_ways, self.update = self._pass_both_ways, self._update_at
        if self.config.compute.graph:
            adds = run.micro_batches_per_step > 1
            self.pass_both_ways = StepGraph(choice.in_graphs()(self._pass_both_ways), self.network, adds)
            if accelerator.scaler is None:  # a scaler reads on the host whether to skip a step
                self.update = UpdateGraph(self._update_parameters, self.optimizer.optimizer)
        # How far the run is.
        self.epoch, self.step = 0, 0  # epochs finished, and steps done in the one under way
        self.totals = dict.fromkeys(("loss", "right", "read", "skipped"), 0.0)  # of the epoch under way
        self.seconds = {"run": 0.0, "epoch": 0.0, "steps": 0.0}  # spent, in all sessions
        self.history: list[dict] = []
        self.sessions: list[dict] = []
        self.scores: Scores | None = None  # of the last epoch

    @property
    def steps_done(self) -> int:
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.config.recipe.epochs * self.steps_per_epoch

    # The record and the snapshots on disk.

    def open(self) -> None:
        """Begin, or resume from the last snapshot in the folder."""
        self.snapshots = Snapshots(self.folder.snapshots, self.run)
        first = self.accelerator.is_main_process
        (state,) = broadcast_object_list([self.snapshots.load() if first else None])
        choice.begin_record({} if state is None else state.get("kernels", {}))
        if state is not None:
            self._restore(state)
        self.began = self.saved = time.perf_counter()
        provenance = records.provenance(self.accelerator.device)
        session = {"epoch": self.epoch, "step": self.step, "processes": self.run.processes}
        self.sessions.append({**session, **{part: provenance[part] for part in ("commit", "versions", "hardware")}})
        compiled = self.config.compute.compile != "none"
        if compiled or self.run.processes > 1:
            self._choose_ways()
        if compiled:
            torch.compiler.reset()  # a compiler keeps a limited number of graphs per function
            compile_blocks(self.network, self.config.compute.compile)
        if first:
            self.folder.start(self.run)
        if self.tracked:
            begin_log(self.accelerator, self.config, self.folder.path, self.steps_done)
        if first:
            self.folder.write_history(self.history)

    def _choose_ways(self) -> None:
        """Choose the ways of operations before the first step, by a pass over noise.

        A compiler takes those that were chosen before. Several processes take the first one's, as after resuming.
        """
        run, device = self.run, self.accelerator.device
        noise = torch.randn(run.micro_batch, 3, run.model.num_frames, run.config.data.size, run.config.data.size)
        noise = noise.to(device)
        if not choice.applies(noise):
            return
        both_ways = choice.in_graphs()(self._pass_both_ways) if self.config.compute.graph else self._pass_both_ways
        with untouched(self.network):
            both_ways(noise, torch.zeros(len(noise), dtype=torch.long, device=device))
        (ways,) = broadcast_object_list([choice.recorded()])
        if not self.accelerator.is_main_process:
            choice.begin_record(ways)

    def save(self) -> None:
        """Write a snapshot. The state is the same in every process, so the first one writes.

        Raises:
            TrainingError: weights that are not finite. The snapshot before them stays.
        """
        self.saved = time.perf_counter()
        if broken := tensors.not_finite(self.network.state_dict()):
            raise self._diverged(f"the weights are not finite ({broken[0]})", self.steps_done)
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.snapshots.save(
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
                "kernels": choice.recorded(),
            }
        )

    def _diverged(self, what: str, step: int) -> TrainingError:
        epoch = 1 + (step - 1) // self.steps_per_epoch
        rate = learning_rate(self.config.recipe, step - 1, self.steps_per_epoch)
        return TrainingError(
            f"{what} at step {step} (epoch {epoch}, learning rate {rate:.4g}): training stopped; a lower learning rate "
            "or a longer warm-up may help"
        )

    def _restore(self, state: dict) -> None:
        self.network.load_state_dict(state["model"])
        self.statistics.begin_step()
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # the run may have begun on another device
            group["fused"] = self.fused
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for part in ("epoch", "step", "totals", "seconds", "history", "sessions"):
            setattr(self, part, state[part])

    def spent(self) -> float:
        """Seconds, in all sessions."""
        return self.seconds["run"] + time.perf_counter() - self.began

    def close(self) -> None:
        """Let go of memory and loader processes, which a notebook that holds an error would keep."""
        if self.tracked:
            for tracker in self.accelerator.trackers:
                tracker.finish()
        end_workers(self.trainset)
        end_workers(self.testset)
        self.model = self.network = self.optimizer = self.trainset = self.testset = self.statistics = self.extra = None
        self.pass_both_ways = self.update = None
        self.accelerator.free_memory()

    # Training.

    @one_line_errors()
    def train_epoch(self, on_step: Callable | None = None) -> None:
        """The steps of this epoch that are still to do."""
        began, spent = time.perf_counter(), dict(self.seconds)
        self.model.train()
        self.sampler.first = self.step * self.config.recipe.batch
        self.trainset.set_epoch(self.epoch)
        self._begin_step()
        for index, (clips, labels) in enumerate(self.trainset if len(self.sampler) else ()):
            with self.accelerator.accumulate(self.model):
                self.sums += self._forward_backward(views_of(clips), labels, index % self.run.micro_batches_per_step)
                if not self.accelerator.sync_gradients:
                    continue
                loss, stopping = self._update()
                self._begin_step()
            now = time.perf_counter()
            for part in ("epoch", "steps"):
                self.seconds[part] = spent[part] + now - began
            call(on_step, self.steps_done, self.steps, loss)
            if stopping:
                self._stop()
            if now - self.saved >= 60 * self.config.compute.save_minutes:
                self.save()
        if not self.totals["read"]:
            raise _unreadable("none", len(self.run.samples["train"]), "training")
        self.save()

    def _begin_step(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # of loss, and of clips right
        self.unread = 0

    def _forward_backward(self, clips: torch.Tensor, labels: torch.Tensor, turn: int) -> torch.Tensor:
        """Gradients of one micro-batch; its sums of the loss and of clips right.

        A clip that could not be read is left out; the step's mean still divides by the whole batch.
        """
        _key_dropout(self.config.seed, self.steps_done, turn * self.run.processes + self.accelerator.process_index)
        read = labels != SKIPPED
        unread = 0 if self.config.data.on_error == "stop" else int((~read).sum())
        if 0 < unread < len(labels):
            clips, labels = clips[read], labels[read]
        # Where nothing was read, the other processes still wait for a backward pass. It has no gradient, and in
        # evaluation mode the batch norms learn nothing from the zeros in place of clips.
        nothing = unread == self.run.micro_batch
        if nothing:
            self.model.eval()
        sums = self.pass_both_ways(clips, labels)
        if nothing:
            self.model.train()
        self.statistics.after_micro_batch()
        self.unread += unread
        return sums

    def _pass_both_ways(self, clips: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self.accelerator.autocast():
            logits = self.model(clips)
            smoothing = self.config.recipe.label_smoothing
            loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=SKIPPED, label_smoothing=smoothing)
            total = loss if self.extra is None else loss + len(labels) * self.extra.taken()
        self.accelerator.backward(total / self.run.micro_batch)
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == labels).sum()]).double()

    def _update(self) -> tuple[float, bool]:
        """The optimizer's step, once per batch: the batch's mean loss, and whether a process was asked to stop."""
        recipe, at = self.config.recipe, self.steps_done
        rate = learning_rate(recipe, at, self.steps_per_epoch)
        loss, right, skipped, stopping = self._over_processes()
        read = recipe.batch - skipped
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", at + 1)
        for part, value in zip(self.totals, (loss, right, read, skipped), strict=True):
            self.totals[part] += value
        _refuse_many(int(self.totals["skipped"]), len(self.run.samples["train"]), self.config.data, "training")
        self.update([rate * group["scale"] for group in self.optimizer.param_groups])
        self.statistics.after_step()
        self.step += 1
        mean = loss / read if read else math.nan
        if self.tracked:
            self.accelerator.log({"train/loss": mean, "train/lr": rate}, step=at + 1)
        return mean, stopping > 0

    def _update_at(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._update_parameters()

    def _update_parameters(self) -> torch.Tensor:
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.config.compute.graph)
        return norm

    def _over_processes(self) -> list[float]:
        """Sums over the batch of the loss, clips right, clips unread, and processes that were asked to stop."""
        counts = [self.unread, processes.stop_requested()]
        counts = torch.tensor(counts, dtype=torch.float64, device=self.sums.device)
        return self.accelerator.reduce(torch.cat([self.sums, counts]), "sum").tolist()

    def _stop(self) -> None:
        self.save()
        raise processes.Interrupted(
            f"stopped after step {self.steps_done} of {self.steps} (epoch {self.epoch + 1}) and saved in "
            f"{self.folder.path}: the same run resumes from there"
        )

    # Testing.

    def test(self) -> Scores:
        """The scores of the test videos by the network as it is; those of the last epoch are kept."""
        if self.scores is None:
            try:
                self.scores = evaluate(self.model, self.testset, self.accelerator, on_step=self._stop_at_once)
            except NotFiniteError as error:
                raise self._diverged(str(error), self.steps_done) from None
            _refuse_many(self.scores.skipped, len(self.run.samples["val"]), self.config.data, "test")
        return self.scores

    def _stop_at_once(self, *_) -> None:
        """While testing, a process without others need not wait: the snapshot after the last step is on disk."""
        if processes.stop_requested() and self.run.processes == 1:
            self._stop()

    def end_epoch(self) -> None:
        """Test the network, if this epoch is to be tested, and close the epoch with its row of the history."""
        began = time.perf_counter()
        self.scores = None
        tested = {"top1": math.nan, "top5": math.nan}
        if self.epoch + 1 >= self.config.recipe.first_tested:
            scores = self.test()
            tested = {"top1": scores.topk(1), "top5": scores.topk(5)}
        totals, steps = self.totals, self.steps_per_epoch
        row = {
            "epoch": self.epoch + 1,
            "lr": learning_rate(self.config.recipe, (self.epoch + 1) * steps - 1, steps),
            "loss": totals["loss"] / totals["read"] if totals["read"] else math.nan,
            "train_top1": 100 * totals["right"] / totals["read"] if totals["read"] else math.nan,
            "skipped": int(totals["skipped"]),
            **tested,
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
        if self.tracked:
            accuracies = {"train/top1": row["train_top1"], "test/top1": row["top1"], "test/top5": row["top5"]}
            known = {name: value for name, value in accuracies.items() if not math.isnan(value)}
            self.accelerator.log(known, step=self.steps_done)


def call(callback: Callable | None, *values) -> None:
    if callback is not None:
        callback(*values)


def _key_dropout(seed: int, step: int, micro: int) -> None:
    """Make what dropout draws depend on the seed, the step and the micro-batch alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, micro]).generate_state(1, np.uint64)[0]))


def _refuse_many(skipped: int, videos: int, data: DataConfig, which: str) -> None:
    if 100 * skipped > data.max_skipped * videos:
        raise _unreadable(skipped, videos, which, f", more than the {data.max_skipped} % that may be skipped")


def _unreadable(skipped: int | str, videos: int, which: str, limit: str = "") -> TrainingError:
    could = "could be read" if skipped == "none" else "could not be read"
    return TrainingError(
        f"{skipped} of the {videos} {which} videos {could}{limit}: see the warnings above for their names, or run "
        "check-videos"
    )
