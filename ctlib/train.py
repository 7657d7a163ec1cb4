"""Training by the paper's recipe (appendix A.1), on a laptop's CPU, a GPU, or many.

SGD with momentum; the learning rate warms up linearly and then follows a cosine to zero. Hugging
Face Accelerate carries device, precision, accumulation and distribution. A run is recorded in its
folder; one that is finished is not run again, and one that was stopped or killed goes on from its
last saved state and ends as if it had never been.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from accelerate import DistributedDataParallelKwargs
from accelerate.utils import gather_object

from ctlib import checkpoints, interrupt, parallel, runs
from ctlib.config import RunConfig
from ctlib.data.catalog import Samples, load_samples
from ctlib.device import make_accelerator, precision_of
from ctlib.evaluate import Scores
from ctlib.models import name_of
from ctlib.trainer import Trainer, call, from_first, identified


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
    the seed and on what it is drawn for, and a batch may be split over processes and in turns: with
    micro-batches of one size (`ComputeConfig.micro_batch`) what is learned is the same.

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
    config = identified(config, samples)
    compute = config.compute
    accelerator = make_accelerator(
        compute,
        dynamo_backend=None if compute.compile == "none" else compute.compile,
        log_with="tensorboard" if compute.tensorboard else None,
        project_dir=folder,
        # Buffers are kept equal after each step, by their mean and not by those of the first process.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    _refuse_differing_lists(config.data.fingerprint)
    folder = runs.RunFolder(folder)
    # What lies on disk is the first process's to judge: the others may be on machines that do not see it.
    (found,) = from_first([folder.result() if accelerator.is_main_process and folder.is_finished(config) else None])
    if found is not None:
        return found
    if len(samples["train"].classes) != config.model.num_classes:
        raise ValueError(
            f"the model has {config.model.num_classes} classes, {config.data.name} has {len(samples['train'].classes)}"
        )
    trainer = Trainer(config, samples, accelerator)
    first = accelerator.is_main_process
    with folder.locked() if first else nullcontext(), interrupt.deferred(alone=accelerator.num_processes == 1):
        trainer.open(folder)
        for row in trainer.history if first else ():
            call(on_epoch, row)
        while trainer.epoch < config.recipe.epochs:
            trainer.train_epoch(on_step if first else None)
            trainer.test_epoch()
            if first:
                call(on_epoch, trainer.history[-1])
        scores = trainer.test()
        result = _result(trainer, scores)
        if first:
            checkpoints.save(folder.checkpoint, trainer.network, samples["train"].classes)
            folder.finish(result, scores.predictions(samples["val"]))
        trainer.close()
    return result


def _refuse_differing_lists(fingerprint: str) -> None:
    found = gather_object([fingerprint])
    if len(set(found)) > 1:
        raise ValueError(f"the processes read different lists: {', '.join(sorted(set(found)))}")


def _result(trainer: Trainer, scores: Scores) -> dict:
    """What came out, on what, and how."""
    config, accelerator = trainer.config, trainer.accelerator
    return {
        **_protocol(config, trainer.samples["train"], trainer.samples["val"]),
        "short_side": trainer.testset.dataset.short_side,
        "train_skipped": max(row["skipped"] for row in trainer.history),
        "skipped": scores.skipped,
        "top1": scores.topk(1),
        "top5": scores.topk(5),
        "gflops": trainer.cost.gflops,
        "params": trainer.cost.params,
        "seconds": trainer.spent(),
        "precision": precision_of(config.compute),
        "batch": config.recipe.batch,
        "micro_batch": trainer.micro_batch,
        "processes": trainer.processes,
        **runs.provenance(accelerator.device),
        "sessions": trainer.sessions,
    }


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
