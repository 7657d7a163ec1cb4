"""A finished run as a network to share: weights in half precision, tested again as they are stored, with the record."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from ctlib import checkpoints
from ctlib.config import ComputeConfig
from ctlib.training.evaluate import Evaluation, score
from ctlib.training.records import IN_CHECKPOINT, RunFolder, remembered
from ctlib.training.run import resolve
from ctlib.training.summaries import accuracy
from ctlib.weights.catalog import named
from ctlib.weights.hub import check_free


def share(
    run: str | Path, out: str | Path, on_step: Callable[[int, int], None] | None = None
) -> checkpoints.Checkpoint:
    """Write a finished run's network to a folder: `model.safetensors`, `config.json` and a model card.

    Weights are rounded to float16 and tested again on the run's test videos, under its protocol. The record's `top1`,
    `top5` and `interval` (percent, at 95 %, over the choice of videos) are of this test; `top1_trained` was before.

    Args:
        run: the run's folder. Its data must still be there.
        out: the folder to write; files of these names are replaced, except README.md.
        on_step: called with the batches tested, and how many there are.

    Returns:
        What was written, in float32.

    Raises:
        ValueError: no run, data that are not those of the record, or something else in `out`, such as a run.
        FileNotFoundError: a run that is not finished, or data that are gone.
        OSError: `out` cannot be written.
    """
    check_free(Path(out).expanduser())
    if named(str(run)) and not Path(run).exists():
        raise ValueError(f"{run} is no run, and ships already: ctlib.from_pretrained({str(run)!r}) reads it")
    folder = RunFolder(run)
    config, result = folder.config(), folder.result(IN_CHECKPOINT)
    asked = resolve(dataclasses.replace(config, compute=ComputeConfig()))
    if asked.fingerprint != result["fingerprint"]:
        raise ValueError(f"{run} was tested on other videos than lie in {asked.root} now: its lists differ")
    trained, samples = checkpoints.load(folder.checkpoint), asked.samples["val"]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "rounded.safetensors"
        checkpoints.save(path, trained.model, trained.classes, asked.view, half=True)
        scores = score(Evaluation(path, samples, asked.data, asked.config.compute), temporary, on_step)
        rounded = checkpoints.load(path)
    interval = accuracy(scores.predictions(samples), config.data.name)
    tested = {"top1": scores.topk(1), "top5": scores.topk(5), "skipped": scores.skipped}
    tested["interval"] = [round(interval.low, 4), round(interval.high, 4)]
    record = remembered(result, config) | tested
    record |= {"top1_trained": result["top1"], "stored": "float16", "test_precision": scores.protocols[0].precision}
    shared = dataclasses.replace(rounded, record=record, half=True)
    shared.save_pretrained(out)
    return shared
