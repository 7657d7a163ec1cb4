"""The command line: `python -m ctlib COMMAND --help`.

A command is a function that declares its arguments and returns what runs it. Its docstring is its help text.
What is slow to import is imported by the command that needs it.
"""

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import ctlib
from ctlib import checkpoints, deploy
from ctlib.config import ArrowConfig, unknown_name
from ctlib.data import arrow as arrow_data
from ctlib.data.catalog import DATASETS, load_samples, load_splits
from ctlib.data.video import VideoError
from ctlib.display.progress import Progress, counting, progress
from ctlib.models import MODELS
from ctlib.training.plan import make_plan
from ctlib.training.recipes import RECIPES, run_config
from ctlib.training.records import RunFolder
from ctlib.training.run import Machine, resolve
from ctlib.training.snapshots import SnapshotError
from ctlib.training.trainer import TrainingError

Parser = argparse.ArgumentParser
Options = argparse.Namespace
Runner = Callable[[Options], int]  # returns the exit code


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(prog="python -m ctlib", description="The reference study of CT-Net.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = None
    for name, command in COMMANDS.items():
        summary = command.__doc__.partition("\n")[0].removesuffix(".")
        command_parser = parsers.add_parser(name, help=summary, description=command.__doc__)
        if name in arguments[:1]:
            run = command(command_parser)
    options = parser.parse_args(arguments)
    failed = f"python -m ctlib {options.command}:"
    try:
        return run(options)
    except (ValueError, TypeError, ImportError, OSError, SnapshotError, TrainingError, VideoError) as error:
        print(failed, error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(failed, str(stopped) or f"interrupted; {options.after_interrupt}", file=sys.stderr)
        return 130


def arrow(parser: Parser) -> Runner:
    """Write the built-in data set, Arrow of Time.

    The data set is written as video files and file lists; its folder is printed.
    """
    defaults = ArrowConfig().to_dict()
    parser.add_argument("--root", type=Path, help="the folder to make (default: one in the cache, written once)")
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help="default: %(default)s")
    parser.set_defaults(after_interrupt="nothing was written")

    def run(options: Options) -> int:
        config = ArrowConfig(**{name: getattr(options, name) for name in defaults})
        show = counting("Arrow of Time, clips written")
        root = options.root
        print(arrow_data.write(config, root, on_clips=show) if root else arrow_data.ensure(config, show))
        return 0

    return run


def add_data_arguments(parser: Parser) -> None:
    """The arguments that choose a data set, and the number of processes."""
    parser.add_argument("name", metavar="NAME", choices=DATASETS, help=", ".join(DATASETS))
    parser.add_argument("root", metavar="ROOT", type=Path, help="the data set's folder")
    parser.add_argument("--split", nargs="+", choices=("train", "val"), default=("train", "val"), help="default: both")
    parser.add_argument("--fold", type=int, help="the split of ucf101 and hmdb51: 1, 2 or 3 (default: 1)")
    parser.add_argument("--val-share", type=float, help="share for testing of a folder without splits (default: 0.2)")
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: one per core, %(default)s)")


def samples_by_split(options: Options, checked: Path | None = None) -> dict:
    if options.workers < 1 or not options.limit > 0:
        raise ValueError(f"needed workers and limit above 0, got {options.workers} and {options.limit:g}")
    given = {name: getattr(options, name) for name in ("fold", "val_share") if getattr(options, name) is not None}
    if set(options.split) == {"train", "val"}:
        return load_splits(options.name, options.root, checked, **given)
    return {split: load_samples(options.name, options.root, split, checked, **given) for split in options.split}


def print_share(name: str, count: int, listed: int, state: str) -> None:
    print(f"{name}: {count:,} of {listed:,} videos are {state} ({100 * count / listed:.1f} %)")


def print_reasons(reasons: dict[str, int]) -> None:
    for reason, videos in reasons.items():
        print(f"  {reason}: {videos:,}")


def check_videos(parser: Parser) -> Runner:
    """Find the videos of a data set that cannot be read.

    Every video is decoded once, under a time limit. The good videos are listed in good.csv, the bad ones with the
    reason in bad.csv. No video is changed. An interrupted check resumes when it is called again. The exit code is 0 if
    all videos are good, and 1 if some are bad. Most damage within frames shows in a digest alone.
    """
    from ctlib.data import check, digests

    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, help="folder of the two lists (default: ROOT/.checked)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one video (default: %(default)s)")
    again = "check again what was checked before: the bad videos, or all"
    parser.add_argument("--again", choices=("bad", "all"), default="none", help=again)
    kept = "keep a digest of each good video, or compare with it; one that differs is bad; --again all renews them"
    parser.add_argument("--digests", action="store_true", help=kept)
    parser.set_defaults(after_interrupt="results are kept: the same command resumes")

    def run(options: Options) -> int:
        splits = samples_by_split(options)
        folder = (options.out or next(iter(splits.values())).root / ".checked").expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{folder} cannot be made ({error.strerror}): name another folder with --out") from None
        summaries = {}
        for name, samples in splits.items():
            with progress(f"{name}, videos checked") as show:
                summaries[name] = check.check(samples, folder, options.workers, options.limit, show, options.again)
            if options.digests:
                with progress(f"{name}, videos compared") as show:
                    limits = options.workers, options.limit
                    made = digests.compare(samples, folder, *limits, show, renew=options.again == "all")
                print(f"{name}: {made.kept:,} digests kept, {made.equal:,} equal, {len(made.changed):,} changed")
                summaries[name] = check.check(samples, folder)  # with those that changed
        for name, summary in summaries.items():
            print_share(name, summary.good, summary.listed, "good")
            print_reasons(summary.bad)
        if all(summary.good for summary in summaries.values()):  # what training will read, with notes on it
            for name, samples in samples_by_split(options, checked=folder).items():
                if samples.compared:
                    print(f"{name}: the good videos were compared with their digests on {samples.compared}")
        print(f"results: {folder / 'good.csv'}, {folder / 'bad.csv'}")
        return int(any(summary.bad for summary in summaries.values()))

    return run


def prepare(parser: Parser) -> Runner:
    """Re-encode a data set so that clips load fast.

    Every video is written to OUT as H.264 with key frames close together, a smaller short side, and the same number of
    frames. OUT then loads as the data set 'list'. Unreadable videos are named in failed.csv and left out; the exit code
    is then 1. An interrupted call resumes when it is called again.
    """
    from ctlib.data import prepare

    add_data_arguments(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make, outside ROOT")
    short_side = "pixels; shorter sides stay (default: %(default)s)"
    parser.add_argument("--short-side", type=int, default=256, help=short_side)
    gop = "frames from one key frame to the next (default: %(default)s)"
    parser.add_argument("--gop", type=int, default=8, help=gop)
    parser.add_argument("--limit", type=float, default=600, help="seconds for one video (default: %(default)s)")
    parser.set_defaults(after_interrupt="re-encoded videos are kept: the same command resumes")

    def run(options: Options) -> int:
        splits, out = samples_by_split(options), options.out.expanduser()
        sizes = options.short_side, options.gop
        with progress("videos re-encoded") as show:
            made = prepare.prepare(splits, out, *sizes, options.workers, options.limit, show)
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

    return run


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


def costs(parser: Parser) -> Runner:
    """Count every cost that the paper publishes, beside the published number: of CT-Net, then of other systems.

    It takes half a minute to a minute. GFLOPs are as the paper's row gives them: of all views in Tables 3 and 6, of one
    view elsewhere. Those of other systems are of one view, and with or without batch norms, as their papers count.
    """
    from ctlib.study import systems, tables

    parser.add_argument("--json", action="store_true", help="records instead of tables; parameters are counts")
    parser.set_defaults(after_interrupt="nothing was written")

    def run(options: Options) -> int:
        table, others = tables.ledger(), systems.costs()
        if options.json:
            records = {"ctnet": table, "systems": others}
            records = {
                name: json.loads(part.to_json(orient="records", double_precision=6)) for name, part in records.items()
            }
            print(json.dumps(records, indent=2))
            return 0
        published, counted = (table.gflops_paper, table.params_paper / 1e6), (table.gflops, table.params / 1e6)
        shown = table[["table", "row", "frames", "size", "views"]].assign(
            **{
                "GFLOPs published": published[0],
                "GFLOPs counted": counted[0].round(2),
                "GFLOPs difference": (counted[0] - published[0]).round(2),
                "M params published": published[1].round(1),
                "M params counted": counted[1].round(2),
                "M params difference": (counted[1] - published[1]).round(2),
            }
        )
        print(shown.to_string(index=False, na_rep="-"))
        for line in table[table.note != ""].itertuples():
            print(f"\nTable {line.table}, {line.row}: {line.note}")
        for what, name in (("gflops", "GFLOPs"), ("params", "numbers of parameters")):
            meets = table[f"{what}_meets"].dropna()
            print(f"\n{meets.sum()} of {len(meets)} published {name} are met.")
        print(f"\nOther systems, GFLOPs of one view\n\n{systems.as_text(others)}")
        return 0

    return run


def export(parser: Parser) -> Runner:
    """Write a trained network as an ONNX file.

    The network is optimized for inference and takes clips (N, 3, T, SIZE, SIZE), with any N. This needs the extra:
    pip install 'ctlib[onnx]'.
    """
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a checkpoint of this project")
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write; an existing one is replaced")
    trained = "(default: as the network was trained)"
    parser.add_argument("--size", type=int, help=f"pixels, height and width of a frame {trained}")
    parser.add_argument("--frames", type=int, help=f"T {trained}")
    parser.set_defaults(after_interrupt="nothing was written")

    def run(options: Options) -> int:
        deploy.export(checkpoints.load(options.checkpoint), options.out, options.size, options.frames)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
        return 0

    return run


def ablations(parser: Parser) -> Runner:
    """Train and test the rows of the paper's ablations, as the study's plan says.

    The plan is in blocks: all networks with seed 0, then with seed 1. After 5, 10 and 20 blocks comparisons are tested,
    and networks whose comparisons are all decided stop. One call does the runs up to the next look. Finished runs are
    not repeated, nor are those in the tables of the study. These are written to OUT, or, if OUT is called `runs`,
    beside it to `ablations`. The exit code is 1 if a run failed.
    """
    from ctlib.study import jobs, results, scales, sweep, tables

    parser.add_argument("out", metavar="OUT", type=Path, help="the folder of the records")
    parser.add_argument("--scale", default="laptop", choices=scales.SCALES)
    parser.add_argument("--tables", nargs="+", default=tables.TABLES, choices=tables.TABLES, metavar="TABLE")
    parser.add_argument("--seeds", nargs="+", default=[], help="do these blocks, whatever the plan says")
    for data in scales.REAL:
        parser.add_argument(f"--{data}-root", default="", metavar="FOLDER", help="of the data set, for --scale paper")
    parser.add_argument("--side-by-side", type=int, default=2, help="how many runs at once (default: 2)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="do what fits into this time, and save the rest"
    )
    parser.add_argument("--device", default="", choices=("auto", "cpu", "cuda"), help="default: as the recipe says")
    parser.add_argument("--set", nargs="+", default=[], metavar="PART.NAME=VALUE", help="changes to the recipe")
    parser.add_argument("--status", action="store_true", help="print how far the study is, and do no run")
    parser.add_argument("--list", action="store_true", help="print the runs as JSON, and do none")
    parser.add_argument("--run", metavar="NAME", default="", help="only the run of this name, in this process")
    parser.set_defaults(after_interrupt="finished runs are kept, and the same command resumes the others")

    def run(options: Options) -> int:
        roots = {data: getattr(options, f"{data.replace('-', '_')}_root") for data in scales.REAL}
        roots = {data: root for data, root in roots.items() if root}
        study = scales.Study(options.scale, " ".join(options.set), roots, device=options.device)

        def wanted() -> list[jobs.Job]:
            if options.seeds:
                return jobs.jobs(study, options.tables, seeds=jobs.parse_seeds(" ".join(options.seeds)))
            return jobs.next_runs(study, options.out, options.tables)

        if options.list or options.run:
            every = wanted()
            chosen = [job for job in every if options.run in ("", job.config.name)]
            if options.run and not chosen:
                raise ValueError(unknown_name("run", options.run, [job.config.name for job in every]))
            jobs.check_roots(chosen, roots)
            return list_runs(chosen, study) if options.list else do_runs(chosen, study, options.out)
        tables_dir = jobs.tables_dir(options.out)
        results.collect(options.out, tables_dir)
        if options.status:
            sweep.show_status(study, options.out, options.tables)
            return 0
        show, clips = functools.partial(print, flush=True), counting("Arrow of Time, clips written")
        swept = sweep.sweep(study, options.out, wanted(), options.side_by_side, options.minutes, show, clips)
        results.collect(options.out, tables_dir)
        for what, labels in swept._asdict().items():
            for label in labels:
                print(f"{what}: {label}", file=sys.stderr)
        return int(bool(swept.failed))

    return run


def list_runs(jobs: list, study) -> int:
    """Print what a scheduler needs to know of each run."""
    from ctlib.study.scales import SCALES

    records = []
    for job in jobs:
        config = job.config
        built_in = config.arrow.to_dict() if config.data.name == "arrow" and not config.data.root else None
        record = {"run": config.name, "seed": config.seed, "rows": config.rows}
        records.append(record | {"gpus": SCALES[study.scale].gpus, "arrow": built_in})
    print(json.dumps(records, indent=2))
    return 0


def do_runs(jobs: list, study, out: Path) -> int:
    from ctlib.study import sweep

    sweep.open_study(study, out)
    for job in jobs:
        recipe = job.config.recipe
        with Progress(job.label(), recipe.epochs, recipe.batch) as shown:
            clips = counting("Arrow of Time, clips written")
            result = sweep.complete(job, out, 1, shown.on_step, shown.on_epoch, on_clips=clips)
        print(f"{job.label()}: top-1 {result['top1']:.2f} % ({job.folder(out).path})")
    return 0


COMMANDS = {
    "arrow": arrow,
    "train": train,
    "check-videos": check_videos,
    "prepare": prepare,
    "costs": costs,
    "export": export,
    "ablations": ablations,
}

if __name__ == "__main__":
    sys.exit(main())
