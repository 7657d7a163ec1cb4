"""Training by the paper's recipe (appendix A.1), on a laptop's CPU, a GPU, or many.

SGD with momentum; the learning rate warms up linearly and then follows a cosine to zero. Hugging Face Accelerate does
device, precision, accumulation and distribution. A run is recorded in its folder. A finished run is not run again. One
that was stopped or killed resumes from its last snapshot, and ends with the same numbers as without the stop.
"""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, gather_object

from ctlib import files
from ctlib.config import RunConfig
from ctlib.kernels import choice
from ctlib.models import name_of
from ctlib.training import processes as parallel
from ctlib.training import records
from ctlib.training.evaluate import Scores
from ctlib.training.records import RunFolder
from ctlib.training.run import Machine, Run, join_processes, launched, make_accelerator, resolve
from ctlib.training.snapshots import Snapshots
from ctlib.training.trainer import Trainer, call


def train(
    config: RunConfig | Run,
    folder: str | Path,
    processes: int = 1,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> dict:
    """Train a network, test it after its epochs, and record the run. Resume it if it was begun; read it if finished.

    What is reported is the network after the last epoch: none is chosen by its test accuracy. Under `torchrun` or
    `accelerate launch`, call it in each process. Everything random depends on the seed and on what it is drawn for.
    With micro-batches of one size (`ComputeConfig.micro_batch`), a step is therefore the same on any number of
    processes, except for the order of sums.

    Args:
        config: the run, or what `run.resolve` made of it.
        folder: where the record goes.
        processes: how many to start on this machine, each on its own GPU, or on the CPU where there is none. 0: as many
            as there are GPUs. A `Run` says it by itself.
        on_step: called with the steps done, their number, and the step's loss; with several processes from another
            thread, as `on_epoch` is.
        on_epoch: called with each row of the history; when a run resumes, first with the rows that it has.

    Returns:
        The record's `result.json`.

    Raises:
        ValueError: parameters that do not fit the data or the machine, or a folder that holds another run.
        FileNotFoundError: videos that do not exist or are empty, in either split.
        TrainingError: a loss that is not finite, or more unreadable videos than may be skipped.
        SnapshotError: a snapshot that cannot be written, or snapshots of which none can be used.
        Interrupted: it was asked to stop (`processes.stop`, SIGINT, SIGTERM, SIGHUP), and has saved a snapshot.
        video.VideoError: a video that cannot be read.
    """
    parallel.forget_stop()
    run = config if isinstance(config, Run) else resolve(config, Machine(processes))
    folder = RunFolder(folder)
    if run.processes == 1 or launched():
        return _train_here(run, folder, on_step, on_epoch)
    if folder.is_finished(run):  # checked here already: starting processes takes longer
        return folder.add_rows(run.config.rows)
    listeners = {"step": on_step, "epoch": on_epoch}

    def listen(kind: str, *values) -> None:
        call(listeners[kind], *values)

    return parallel.launch(_train_and_send, run, folder, processes=run.processes, listen=listen)


def _train_and_send(run: Run, folder: RunFolder, send: Callable) -> dict:
    return _train_here(run, folder, lambda *step: send("step", *step), lambda row: send("epoch", row))


def _train_here(run: Run, folder: RunFolder, on_step, on_epoch) -> dict:
    """`train` in one process, alone or among others."""
    joined = join_processes(run.config.compute)
    first, alone = joined.is_main_process, joined.num_processes == 1
    if joined.num_processes != run.processes:
        raise ValueError(f"the run was resolved for {run.processes} process(es), {joined.num_processes} were started")
    _refuse_different_lists(run.fingerprint)
    with files.locked(folder.path) if first else nullcontext():
        # The first process looks at what lies on disk: the others may be on machines that do not see it.
        finished, begun_as = broadcast_object_list(list(_looked_at(folder, run)) if first else [None, None])
        if finished is not None:
            return finished
        run = dataclasses.replace(run, **begun_as)
        run.refuse_missing_videos()
        trainer = Trainer(run, _accelerator(run, folder), folder)
        try:
            with parallel.signals_request_stop(alone), choice.using(run.config.compute.kernels):
                return _run_epochs(trainer, folder, on_step if first else None, on_epoch if first else None)
        finally:
            trainer.close()


def _looked_at(folder: RunFolder, run: Run) -> tuple[dict | None, dict]:
    """The result if the run is finished, and else what of it was resolved when it was begun."""
    if not folder.is_finished(run):
        return None, folder.begun_as(run)
    Snapshots(folder.snapshots, run).clear()  # of a run that was killed right at its end
    return folder.add_rows(run.config.rows), {}


def _run_epochs(trainer: Trainer, folder: RunFolder, on_step, on_epoch) -> dict:
    trainer.open()
    for row in trainer.history:
        call(on_epoch, row)
    while trainer.epoch < trainer.config.recipe.epochs:
        trainer.train_epoch(on_step)
        trainer.end_epoch()
        call(on_epoch, trainer.history[-1])
    scores = trainer.test()
    result = _result(trainer, scores)
    if trainer.accelerator.is_main_process:
        record = records.remembered(result, trainer.config)
        folder.save_checkpoint(trainer.network, trainer.run.samples["train"].classes, trainer.run.view, record)
        folder.finish(result, scores.predictions(trainer.run.samples["val"]))
        trainer.snapshots.clear()
    return result


def _accelerator(run: Run, folder: RunFolder) -> Accelerator:
    compute = run.config.compute
    return make_accelerator(
        compute,
        run.precision,
        log_with=None if compute.tracker == "none" else compute.tracker,
        project_dir=folder.path,
        # Buffers are made equal after each step, by their mean and not by those of the first process.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def _refuse_different_lists(fingerprint: str) -> None:
    fingerprints = sorted(set(gather_object([fingerprint])))
    if len(fingerprints) > 1:
        raise ValueError(f"the processes read different lists: {', '.join(fingerprints)}")


def _result(trainer: Trainer, scores: Scores) -> dict:
    """What came out, on which data, and how."""
    run, config = trainer.run, trainer.config
    train_samples, test_samples = run.samples["train"], run.samples["val"]
    return {
        "name": config.name,
        "rows": [list(row) for row in config.rows],
        "model": name_of(run.model),
        "data": config.data.name,
        "fingerprint": run.fingerprint,
        "train_videos": len(train_samples),
        "train_listed": train_samples.listed,
        "videos": len(test_samples),
        "listed": test_samples.listed,
        "sampling": run.data.sampling,
        "flip": run.data.flip,
        "num_frames": run.model.num_frames,
        "size": config.data.size,
        "clips": config.data.clips,
        "crops": config.data.crops,
        "averaged": "logits",
        "seed": config.seed,
        "epochs": config.recipe.epochs,
        "short_side": run.data.short_side,
        "train_skipped": max(row["skipped"] for row in trainer.history),
        "skipped": scores.skipped,
        "top1": scores.topk(1),
        "top5": scores.topk(5),
        "gflops": trainer.cost.gflops,
        "params": trainer.cost.params,
        "seconds": trainer.spent(),
        "precision": run.precision,
        "batch": config.recipe.batch,
        "micro_batch": run.micro_batch,
        "processes": run.processes,
        **records.provenance(trainer.accelerator.device),
        "sessions": trainer.sessions,
        "kernels": choice.recorded(),
    }
