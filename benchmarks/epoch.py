"""How long the accelerator waits for clips: an epoch from the loader beside one on clips that lie in memory.

The same trainer does the same steps of the built-in data in both, in turn: once on what its loader decodes
meanwhile, once on its first batch over and over. What the first takes longer is waiting.

    python benchmarks/epoch.py [--model ctnet_quickstart] [--set compute.threads=2 data.workers=2] [--record out.json]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ctlib.data.clips import DeviceClips
from ctlib.training import records
from ctlib.training.recipes import run_config
from ctlib.training.run import make_accelerator, resolve
from ctlib.training.trainer import Trainer


class OneBatch:
    """A loader that gives the first batch of another, on the device, as often as the other gives one.

    What the device cuts itself (`DeviceClips`) is cut anew each time: that is no waiting.
    """

    def __init__(self, loader):
        self.count = len(loader)
        loader.set_epoch(0)
        self.batch = next(iter(loader))
        self.dataset = loader.dataset if isinstance(loader.dataset, DeviceClips) else None
        self.keys = next(iter(loader.batch_sampler)) if self.dataset else None

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self):
        for _ in range(self.count):
            yield self.dataset.__getitems__(self.keys) if self.dataset else self.batch


def seconds_of_epoch(trainer: Trainer, loader) -> float:
    own, trainer.trainset, trainer.step = trainer.trainset, loader, 0
    began = time.perf_counter()
    try:
        trainer.train_epoch()
        if trainer.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
    finally:
        trainer.trainset = own
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ctnet_quickstart")
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--set", nargs="+", default=[], metavar="PART.NAME=VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, help="write the record there, as JSON")
    options = parser.parse_args()
    config = run_config("arrow", options.model, options.recipe, " ".join(options.set))
    run = resolve(config)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(config.compute, run.precision)
        trainer = Trainer(run, accelerator, records.RunFolder(Path(folder)))
        trainer.open()
        trainer.save = lambda: None  # a snapshot on disk is no part of either
        loader, kept = trainer.trainset, OneBatch(trainer.trainset)
        seconds_of_epoch(trainer, kept)  # warms up
        pairs = [(seconds_of_epoch(trainer, loader), seconds_of_epoch(trainer, kept)) for _ in range(options.rounds)]
        device = trainer.accelerator.device
        trainer.close()
    ratios = [loaded / alone for loaded, alone in pairs]
    provenance = records.provenance(device)
    record = {
        "protocol": f"{options.rounds} epochs of each in turn, medians",
        "model": options.model,
        "data": f"Arrow of Time, {len(run.samples['train'])} videos",
        "clip": f"{config.model.num_frames} x {config.data.size} x {config.data.size}",
        "batch": config.recipe.batch,
        "workers": config.data.workers,
        "precision": run.precision,
        **{part: provenance[part] for part in ("hardware", "threads", "versions", "commit")},
        "epoch_seconds": round(statistics.median(loaded for loaded, _ in pairs), 2),
        "steps_alone_seconds": round(statistics.median(alone for _, alone in pairs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "waiting_share": round(1 - 1 / statistics.median(ratios), 3),
    }
    print(json.dumps(record, indent=1))
    if options.record:
        options.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
