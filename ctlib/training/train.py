"""Training by the paper's recipe (appendix A.1), on a laptop's CPU, a GPU, or many.

SGD with momentum; the learning rate warms up linearly and then follows a cosine to zero. Hugging
Face Accelerate carries device, precision, accumulation and distribution. A run is recorded in its
folder; one that is finished is not run again, and one that was stopped or killed goes on from its
last saved state and ends as if it had never been.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object

from ctlib import checkpoints
from ctlib.config import RunConfig
from ctlib.data.catalog import Samples, load_samples
from ctlib.models import name_of
from ctlib.training import interrupt, records
from ctlib.training import processes as parallel
from ctlib.training.device import join_processes, make_accelerator
from ctlib.training.evaluate import Scores
from ctlib.training.records import RunFolder
from ctlib.training.snapshots import SavedStates
from ctlib.training.trainer import Trainer, call, from_first, identified, settled


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
    micro-batches of one size (`ComputeConfig.micro_batch`) a step is the same but for the order of sums.

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
    interrupt.forget()
    processes = parallel.wanted(processes, config.compute.device)
    if processes == 1:
        return _run(config, Path(folder), on_step, on_epoch)
    # Judged here already: starting processes takes longer, and tells a refusal less well.
    finished = RunFolder(folder).is_finished(identified(config, _lists(config)))
    if finished:
        return RunFolder(folder).result()
    listeners = {"step": on_step, "epoch": on_epoch}

    def listen(kind: str, *values) -> None:
        call(listeners[kind], *values)

    return parallel.launch(_run_and_tell, config, Path(folder), processes=processes, listen=listen)


def _run_and_tell(config: RunConfig, folder: Path, tell: Callable) -> dict:
    return _run(config, folder, lambda *step: tell("step", *step), lambda row: tell("epoch", row))


def _run(config: RunConfig, folder: Path, on_step, on_epoch) -> dict:
    """`train` in one process, alone or among others."""
    samples = _lists(config)
    config = identified(config, samples)
    if len(samples["train"].classes) != config.model.num_classes:
        raise ValueError(
            f"the model has {config.model.num_classes} classes, {config.data.name} has {len(samples['train'].classes)}"
        )
    joined = join_processes(config.compute)
    _refuse_differing_lists(config.data.fingerprint)
    folder, first = RunFolder(folder), joined.is_main_process
    settled(config, joined.num_processes)  # an error, if it cannot be, before a folder is made
    with folder.locked() if first else nullcontext():
        # What lies on disk is the first process's to judge: the others may be on machines that do not see it.
        found, config = from_first([None, config] if not first else _judged(folder, config))
        if found is not None:
            return found
        config = settled(config, joined.num_processes)
        trainer = Trainer(config, samples, _accelerator(config, folder))
        try:
            with interrupt.deferred(alone=joined.num_processes == 1):
                return _train(trainer, folder, on_step if first else None, on_epoch if first else None)
        finally:
            trainer.close()


def _train(trainer: Trainer, folder: RunFolder, on_step, on_epoch) -> dict:
    trainer.open(folder)
    for row in trainer.history:
        call(on_epoch, row)
    while trainer.epoch < trainer.config.recipe.epochs:
        trainer.train_epoch(on_step)
        trainer.test_epoch()
        call(on_epoch, trainer.history[-1])
    scores = trainer.test()
    result = _result(trainer, scores)
    if trainer.accelerator.is_main_process:
        checkpoints.save(folder.checkpoint, trainer.network, trainer.samples["train"].classes)
        folder.finish(result, scores.predictions(trainer.samples["val"]))
        trainer.states.clear()
    return result


def _lists(config: RunConfig) -> dict[str, Samples]:
    options = config.data.options()
    return {split: load_samples(config.data.name, config.data.root, split, **options) for split in ("train", "val")}


def _judged(folder: RunFolder, config: RunConfig) -> list:
    """The result if the run is finished, and the run as it was begun."""
    if not folder.is_finished(config):
        return [None, folder.as_begun(config)]
    SavedStates(folder.states, config).clear()  # of a run that was killed right at its end
    return [folder.result(), config]


def _accelerator(config: RunConfig, folder: RunFolder) -> Accelerator:
    compute = config.compute
    return make_accelerator(
        compute,
        dynamo_backend=None if compute.compile == "none" else compute.compile,
        log_with="tensorboard" if compute.tensorboard else None,
        project_dir=folder.path,
        # Buffers are kept equal after each step, by their mean and not by those of the first process.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


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
        "precision": config.compute.precision,
        "batch": config.recipe.batch,
        "micro_batch": trainer.micro_batch,
        "processes": trainer.processes,
        **records.provenance(accelerator.device),
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
