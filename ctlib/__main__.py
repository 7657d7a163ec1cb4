"""The command line: `python -m ctlib COMMAND --help`."""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from ctlib import checkpoints, deploy
from ctlib.config import unknown_name
from ctlib.data import arrow
from ctlib.data.catalog import DATASETS, load_samples
from ctlib.data.check import check
from ctlib.data.prepare import prepare
from ctlib.data.video import VideoError
from ctlib.display.notebook import Progress, counting
from ctlib.models import MODELS
from ctlib.study import scales, sweep, tables
from ctlib.study.collect import collect
from ctlib.study.jobs import Job, check_roots, jobs, parse_seeds
from ctlib.training.machine import Machine
from ctlib.training.plan import make_plan
from ctlib.training.processes import Interrupted
from ctlib.training.recipes import RECIPES, run_config
from ctlib.training.records import RunFolder
from ctlib.training.run import resolve
from ctlib.training.snapshots import ResumeError
from ctlib.training.train import train
from ctlib.training.trainer import TrainingError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ctlib", description="The reference study of CT-Net.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    make = commands.add_parser(
        "arrow",
        help="write the built-in data set, Arrow of Time",
        description="Write the built-in data set, Arrow of Time, as video files and file lists; print its folder.",
    )
    make.add_argument("--root", type=Path, help="the folder to make (default: one in the cache, written once)")
    for name, default in arrow.ArrowConfig().to_dict().items():
        option = f"--{name.replace('_', '-')}"
        make.add_argument(option, type=type(default), default=default, help="default: %(default)s")
    make.set_defaults(run=write_arrow, kept="nothing was written")

    ledger = commands.add_parser(
        "costs",
        help="every cost that the paper publishes, with our count beside it",
        description="Count every published cost that this code can build, beside the published number: about 15 "
        "seconds. GFLOPs are as the paper's row gives them: of all views in Tables 3 and 6, of one view elsewhere.",
    )
    ledger.add_argument("--json", action="store_true", help="records instead of a table; parameters are counts")
    ledger.set_defaults(run=print_costs, kept="nothing was written")

    checking = commands.add_parser(
        "check-videos",
        help="find the videos of a data set that cannot be read",
        description="Decode every video of a data set once, each under a time limit. List the good videos in good.csv, "
        "the bad ones with the reason in bad.csv. No video is changed. An interrupted check resumes when it is called "
        "again. Exits with 0 if all videos are good, with 1 if some are bad.",
    )
    add_data_options(checking)
    checking.add_argument("--out", type=Path, help="folder of the two lists (default: ROOT/.checked)")
    checking.add_argument("--limit", type=float, default=120, help="seconds for one video (default: %(default)s)")
    checking.add_argument(
        "--again",
        choices=("bad", "all"),
        default="none",
        help="check again what was checked before: the bad videos, or all",
    )
    checking.set_defaults(run=check_videos, kept="results are kept: the same command resumes")

    preparing = commands.add_parser(
        "prepare",
        help="re-encode a data set so that clips load fast",
        description="Re-encode every video of a data set into OUT: H.264 with key frames close together, a smaller "
        "short side, the same number of frames. OUT then loads as the data set 'list'. Unreadable videos are named in "
        "failed.csv and left out; the exit code is then 1. An interrupted call resumes when it is called again.",
    )
    add_data_options(preparing)
    preparing.add_argument("out", metavar="OUT", type=Path, help="the folder to make, outside ROOT")
    preparing.add_argument(
        "--short-side", type=int, default=256, help="pixels; shorter sides stay (default: %(default)s)"
    )
    preparing.add_argument(
        "--gop", type=int, default=8, help="frames from one key frame to the next (default: %(default)s)"
    )
    preparing.add_argument("--limit", type=float, default=600, help="seconds for one video (default: %(default)s)")
    preparing.set_defaults(run=prepare_videos, kept="re-encoded videos are kept: the same command resumes")

    training = commands.add_parser(
        "train",
        help="train a network, as notebooks/train.ipynb does, in a terminal or under torchrun",
        description="Train a network on a data set by a recipe, test it, and leave the record in OUT/NAME/seedK. A run "
        "that was stopped or killed goes on when the same command is given again. On several machines: "
        "`torchrun --nnodes ... --nproc-per-node ... -m ctlib train ...`, with --processes left at 1.",
    )
    training.add_argument("out", metavar="OUT", type=Path, help="the study's folder")
    training.add_argument("--data", default="arrow", choices=DATASETS, help=", ".join(DATASETS))
    training.add_argument("--root", default="", help="the folder of the data set; arrow is made if not given")
    training.add_argument("--model", default="ctnet_quickstart", choices=MODELS, help=", ".join(MODELS))
    training.add_argument("--recipe", default="", help=f"{', '.join(RECIPES)} (default: the data set's)")
    training.add_argument("--start", default="", help="a checkpoint from whose weights to start")
    training.add_argument("--name", default="", help="what the run is called (default: as the model)")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--processes", type=int, default=1, help="on this machine; 0: one for each GPU (default: 1)")
    training.add_argument(
        "--set", nargs="+", default=[], metavar="PART.NAME=VALUE", help="what differs from the recipe: recipe.lr=0.01"
    )
    training.set_defaults(run=train_network, kept="the state is saved: the same command goes on")

    exporting = commands.add_parser(
        "export",
        help="write a trained network as an ONNX file",
        description="Write the network of a checkpoint, optimized for inference, as an ONNX file for clips "
        "(N, 3, T, SIZE, SIZE), N free. Needs the extra: pip install 'ctlib[onnx]'.",
    )
    exporting.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a checkpoint of ours")
    exporting.add_argument("out", metavar="OUT", type=Path, help="the file to write; one that is there is replaced")
    exporting.add_argument("--size", type=int, required=True, help="pixels, height and width of a frame")
    exporting.add_argument("--frames", type=int, help="T (default: as the network was trained)")
    exporting.set_defaults(run=export_network, kept="nothing was written")

    sweeping = commands.add_parser(
        "ablations",
        help="train and test every row of the paper's ablations",
        description="Train and test what the rows of the paper's tables need, some runs side by side: the first seed "
        "of every row, then the next. Finished runs are not done again. Ends with 1 if a run failed. The tables of the "
        "study are written to OUT, or, if OUT is called `runs`, beside it to `ablations`.",
    )
    sweeping.add_argument("out", metavar="OUT", type=Path, help="the folder of the records")
    sweeping.add_argument("--scale", default="laptop", choices=scales.SCALES)
    sweeping.add_argument("--tables", nargs="+", default=tables.TABLES, choices=tables.TABLES, metavar="TABLE")
    sweeping.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    for data in scales.REAL:
        sweeping.add_argument(f"--{data}-root", default="", metavar="FOLDER", help="of the data set, for --scale paper")
    sweeping.add_argument("--side-by-side", type=int, default=2, help="how many runs at once (default: 2)")
    sweeping.add_argument("--set", nargs="+", default=[], metavar="PART.NAME=VALUE", help="differing from the recipe")
    sweeping.add_argument("--list", action="store_true", help="print the runs as JSON, and do none")
    sweeping.add_argument("--run", metavar="NAME", default="", help="only the run of this name, in this process")
    sweeping.set_defaults(run=run_ablations, kept="finished runs are kept, and the same command resumes the others")

    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except Interrupted as stopped:
        print(f"python -m ctlib {options.command}: {stopped}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, ImportError, OSError, ResumeError, TrainingError, VideoError) as error:
        print(f"python -m ctlib {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"python -m ctlib {options.command}: interrupted; {options.kept}", file=sys.stderr)
        return 130


def write_arrow(options: argparse.Namespace) -> int:
    config = arrow.ArrowConfig(**{name: getattr(options, name) for name in arrow.ArrowConfig().to_dict()})
    show = counting("Arrow of Time, clips written")
    print(arrow.ensure(config, show) if options.root is None else arrow.write(config, options.root, on_clips=show))
    return 0


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose a data set, and the number of processes."""
    parser.add_argument("name", metavar="NAME", choices=DATASETS, help=", ".join(DATASETS))
    parser.add_argument("root", metavar="ROOT", type=Path, help="the data set's folder")
    parser.add_argument("--split", nargs="+", choices=("train", "val"), default=("train", "val"), help="default: both")
    parser.add_argument("--fold", type=int, help="the split of ucf101 and hmdb51: 1, 2 or 3 (default: 1)")
    parser.add_argument("--val-share", type=float, help="share for testing of a folder without splits (default: 0.2)")
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: one per core, %(default)s)")


def data_of(options: argparse.Namespace) -> dict:
    """The samples by split."""
    if options.workers < 1 or not options.limit > 0:
        raise ValueError(f"needed workers and limit above 0, got {options.workers} and {options.limit:g}")
    given = {name: getattr(options, name) for name in ("fold", "val_share") if getattr(options, name) is not None}
    return {split: load_samples(options.name, options.root, split, **given) for split in dict.fromkeys(options.split)}


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that shows a bar on a terminal, otherwise a line at each quarter."""
    if not sys.stderr.isatty():
        yield counting(what)
        return
    with tqdm(desc=what, unit="video", mininterval=0.5) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.total, bar.initial, bar.n = total, done, done  # earlier results do not count for the speed
            bar.update(done - bar.n)

        yield show


def print_share(name: str, count: int, listed: int, state: str) -> None:
    print(f"{name}: {count:,} of {listed:,} videos are {state} ({100 * count / listed:.1f} %)")


def print_reasons(reasons: dict[str, int]) -> None:
    for reason, videos in reasons.items():
        print(f"  {reason}: {videos:,}")


def check_videos(options: argparse.Namespace) -> int:
    splits = data_of(options)
    folder = (options.out or next(iter(splits.values())).root / ".checked").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder} cannot be made ({error.strerror}): name another folder with --out") from None
    summaries = {}
    for name, samples in splits.items():
        with progress(f"{name}, videos checked") as show:
            summaries[name] = check(samples, folder, options.workers, options.limit, show, options.again)
    for name, summary in summaries.items():
        print_share(name, summary.good, summary.listed, "good")
        print_reasons(summary.bad)
    print(f"results: {folder / 'good.csv'}, {folder / 'bad.csv'}")
    return int(any(summary.bad for summary in summaries.values()))


def prepare_videos(options: argparse.Namespace) -> int:
    splits, out = data_of(options), options.out.expanduser()
    with progress("videos re-encoded") as show:
        made = prepare(splits, out, options.short_side, options.gop, options.workers, options.limit, show)
    for name, good in made.good.items():
        print_share(name, good, made.listed[name], "re-encoded")
    if made.failed:
        print(f"left out (see {out / 'failed.csv'}):")
        print_reasons(made.failed)
    videos, before, after = made.loading
    speed = f"{before:.1f} before, {after:.1f} now ({after / before:.1f} times as fast)"
    print(f"clips of 8 frames per second, one process, {videos} random videos: {speed}")
    print(f"load it as the data set 'list' in {out}")
    return int(bool(made.failed))


def train_network(options: argparse.Namespace) -> int:
    first = os.environ.get("RANK", "0") == "0"  # among the processes that torchrun starts
    given = {"name": options.name or None, "start": options.start, "seed": options.seed, "data.root": options.root}
    config = run_config(options.data, options.model, options.recipe, " ".join(options.set), **given)
    folder = RunFolder.of(config, options.out)
    run = resolve(config, Machine(options.processes), counting("Arrow of Time, clips written") if first else None)
    if first:
        for what, value in make_plan(run).table().items():
            print(f"{what:<22}{value}", flush=True)
    with Progress(config.name, config.recipe.epochs, config.recipe.batch) as progress:
        result = train(run, folder.path, on_step=progress.on_step, on_epoch=progress.on_epoch)
    if first:
        found = "" if progress.lines else ", found finished"
        print(f"{config.name}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % ({folder.path}{found})")
    return 0


def export_network(options: argparse.Namespace) -> int:
    trained = checkpoints.load(options.checkpoint)
    deploy.export(trained.model, options.out, options.size, options.frames, trained.classes)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def run_ablations(options: argparse.Namespace) -> int:
    roots = {data: getattr(options, f"{data.replace('-', '_')}_root") for data in scales.REAL}
    roots = {data: root for data, root in roots.items() if root}
    study = scales.Study(options.scale, " ".join(options.set), roots)
    seeds = parse_seeds(" ".join(options.seeds))
    if options.list or options.run:
        todo = [job for job in jobs(study, options.tables, seeds=seeds) if options.run in ("", job.config.name)]
        if options.run and not todo:
            raise ValueError(unknown_name("run", options.run, [job.config.name for job in jobs(study)]))
        check_roots(todo, roots)
        return list_runs(todo, options.scale) if options.list else do_runs(todo, study, options.out)
    show = functools.partial(print, flush=True)
    clips = counting("Arrow of Time, clips written")
    swept = sweep.sweep(study, options.out, options.tables, seeds, options.side_by_side, show, clips)
    collect(options.out, sweep.tables_dir(options.out))
    for label in swept.locked:
        print(f"skipped, as another process is at it: {label}", file=sys.stderr)
    for label in swept.failed:
        print(f"failed: {label}", file=sys.stderr)
    return int(bool(swept.failed))


def list_runs(todo: list[Job], scale: str) -> int:
    records = []
    for job in todo:
        config = job.config
        built_in = config.arrow.to_dict() if config.data.name == "arrow" and not config.data.root else None
        records.append({"run": config.name, "seed": config.seed, "rows": config.rows})
        records[-1] |= {"gpus": scales.SCALES[scale].gpus, "arrow": built_in}
    print(json.dumps(records, indent=2))
    return 0


def do_runs(todo: list[Job], study: scales.Study, out: Path) -> int:
    sweep.open_study(study, out)
    for job in todo:
        recipe = job.config.recipe
        with Progress(job.label(), recipe.epochs, recipe.batch) as progress:
            clips = counting("Arrow of Time, clips written")
            result = sweep.complete(job, out, 1, progress.on_step, progress.on_epoch, on_clips=clips)
        print(f"{job.label()}: top-1 {result['top1']:.2f} % ({job.folder(out).path})")
    return 0


def print_costs(options: argparse.Namespace) -> int:
    table = tables.ledger()
    if options.json:
        print(table.to_json(orient="records", indent=2, double_precision=6))
        return 0
    shown = pd.DataFrame(
        {
            "table": table.table,
            "row": table.row,
            "frames": table.frames,
            "size": table["size"],
            "views": table.views,
            "GFLOPs printed": table.gflops_paper,
            "GFLOPs counted": table.gflops.round(2),
            "GFLOPs differ": (table.gflops - table.gflops_paper).round(2),
            "M params printed": (table.params_paper / 1e6).round(1),
            "M params counted": (table.params / 1e6).round(2),
            "M params differ": ((table.params - table.params_paper) / 1e6).round(2),
        }
    )
    print(shown.to_string(index=False, na_rep="-"))
    noted = table[table.note != ""]
    for line in noted.itertuples():
        print(f"\nTable {line.table}, {line.row}: {line.note}")
    for what, name in (("gflops", "GFLOPs"), ("params", "numbers of parameters")):
        meets = table[f"{what}_meets"].dropna()
        print(f"\n{meets.sum()} of {len(meets)} published {name} are met.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
