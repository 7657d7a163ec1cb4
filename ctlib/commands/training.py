"""Commands that train or test a network: train."""

import os
from pathlib import Path

import ctlib
from ctlib.commands.command import Options, Parser, Runner
from ctlib.data.catalog import DATASETS
from ctlib.display.progress import Progress, counting
from ctlib.models import MODELS
from ctlib.training.plan import make_plan
from ctlib.training.recipes import RECIPES, run_config
from ctlib.training.records import RunFolder
from ctlib.training.run import Machine, resolve
from ctlib.training.snapshots import SnapshotError
from ctlib.training.trainer import TrainingError

ERRORS = (SnapshotError, TrainingError)


def train(parser: Parser) -> Runner:
    """Train and test a network, in a terminal or under torchrun.

    The record is written to OUT/NAME/seedK. A stopped run resumes when the same command is given again. On several
    machines: `torchrun --nnodes ... --nproc-per-node ... -m ctlib train ...`, with --processes left at 1.
    """
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder of the records")
    parser.add_argument("--data", default="arrow", choices=DATASETS, help=", ".join(DATASETS))
    parser.add_argument("--root", default="", help="the data set's folder; arrow is written if it is not given")
    named = "such as ctnet_r50, tsn_laptop or tsm_quickstart; a wrong name is answered with all of them"
    parser.add_argument("--model", default="ctnet_quickstart", choices=MODELS, metavar="NAME", help=named)
    parser.add_argument("--recipe", default="", help=f"{', '.join(RECIPES)} (default: the data set's)")
    parser.add_argument("--start", default="", help="a checkpoint with the weights to start from")
    parser.add_argument("--name", default="", help="the run's name (default: the model's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="on this machine; 0: one for each GPU (default: 1)")
    overrides = "changes to the recipe, such as recipe.lr=0.01"
    parser.add_argument("--set", nargs="+", default=[], metavar="PART.NAME=VALUE", help=overrides)
    parser.set_defaults(after_interrupt="the run is saved: the same command resumes")

    def run(options: Options) -> int:
        first = os.environ.get("RANK", "0") == "0"  # among the processes that torchrun starts
        given = {"name": options.name or None, "start": options.start, "seed": options.seed, "data.root": options.root}
        config = run_config(options.data, options.model, options.recipe, " ".join(options.set), **given)
        folder = RunFolder.of(config, options.out)
        folder.check_writable()
        clips = counting("Arrow of Time, clips written") if first else None
        resolved = resolve(config, Machine(options.processes), clips)
        if first:
            for what, value in make_plan(resolved).table().items():
                print(f"{what:<22}{value}", flush=True)
        with Progress(config.name, config.recipe.epochs, config.recipe.batch) as shown:
            result = ctlib.train(resolved, folder.path, on_step=shown.on_step, on_epoch=shown.on_epoch)
        if first:
            state = "" if shown.epochs_run else ", already finished"
            print(f"{config.name}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % ({folder.path}{state})")
        return 0

    return run
