"""Commands about data sets: arrow, check-videos, prepare and clear-cache."""

import math
import os
from pathlib import Path

from ctlib import files
from ctlib.commands.command import Options, Parser, Runner
from ctlib.config import ArrowConfig
from ctlib.data.catalog import DATASETS, load_samples, load_splits, split_meant
from ctlib.display.progress import counting


def arrow(parser: Parser) -> Runner:
    """Write the built-in data set, Arrow of Time.

    The data set is written as video files and file lists; its folder is printed.
    """
    from ctlib.data import arrow as arrow_data

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
    named = "train, val, or test where the publisher or the folder calls val so (default: both)"
    choices, both = ("train", "val", "test"), ("train", "val")
    parser.add_argument("--split", nargs="+", choices=choices, default=both, metavar="NAME", help=named)
    parser.add_argument("--fold", type=int, help="the split of ucf101 and hmdb51: 1, 2 or 3 (default: 1)")
    parser.add_argument("--val-share", type=float, help="share for testing of a folder without splits (default: 0.2)")
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: one per core, %(default)s)")


def samples_by_split(options: Options, checked: Path | None = None) -> dict:
    if options.workers < 1 or not options.limit > 0:
        raise ValueError(f"needed workers and limit above 0, got {options.workers} and {options.limit:g}")
    given = {name: getattr(options, name) for name in ("fold", "val_share") if getattr(options, name) is not None}
    splits = [split_meant(options.name, options.root.expanduser(), split) for split in options.split]
    if set(splits) == {"train", "val"}:
        return load_splits(options.name, options.root, checked, **given)
    return {split: load_samples(options.name, options.root, split, checked, **given) for split in splits}


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
            show, limits = counting(f"{name}, videos checked"), (options.workers, options.limit)
            summaries[name] = check.check(samples, folder, *limits, show, options.again)
            if options.digests:
                show = counting(f"{name}, videos compared")
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
        sizes, show = (options.short_side, options.gop), counting("videos re-encoded")
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


def clear_cache(parser: Parser) -> Runner:
    """Delete the decoded videos in the cache that no run uses.

    They are of data.cache=disk. The next run on these videos decodes them again. The built-in data sets stay.
    """
    from ctlib.data import cache

    parser.set_defaults(after_interrupt="the same command deletes the rest")

    def run(options: Options) -> int:
        print(f"{cache.make_room(math.inf) / 1e9:.1f} GB of decoded videos were deleted from {files.cache_dir()}")
        return 0

    return run
