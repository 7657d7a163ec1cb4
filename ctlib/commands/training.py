"""Commands that train, test or share a network: train, evaluate and share."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

import ctlib
from ctlib import checkpoints
from ctlib.commands.command import Options, Parser, Runner
from ctlib.config import ArrowConfig, ComputeConfig, DataConfig
from ctlib.data import arrow
from ctlib.data.catalog import DATASETS, load_samples
from ctlib.data.catalog.folders import ALL, VAL_SHARE, split_folders
from ctlib.data.catalog.sources import subfolders, videos_in
from ctlib.data.sampling import SAMPLINGS
from ctlib.data.views import complete
from ctlib.display.progress import Progress, counting
from ctlib.files import one_line, portable, quoted
from ctlib.training.evaluate import Evaluation, Scores, score
from ctlib.training.own_clips import fitted_config, underfit
from ctlib.training.plan import make_plan
from ctlib.training.recipes import RECIPES
from ctlib.training.records import RunFolder
from ctlib.training.run import Machine, resolve
from ctlib.training.share import share as share_run
from ctlib.training.snapshots import SnapshotError
from ctlib.training.summaries import accuracy
from ctlib.training.trainer import TrainingError
from ctlib.weights import SUFFIX

ERRORS = (SnapshotError, TrainingError)


def train(parser: Parser) -> Runner:
    """Train and test a network, in a terminal or under torchrun.

    The record is written to OUT/NAME/seed<N>, with the network in checkpoint.safetensors. A stopped run resumes when
    the same command is given again. With --data folder, ROOT has one folder of videos per class, as in
    `ctlib train runs --data folder --root ~/clips`. On several machines:
    `torchrun --nnodes ... --nproc-per-node ... -m ctlib train ...`, with --processes left at 1.
    """
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder of the records")
    data = (
        f"{', '.join(DATASETS)} (default: %(default)s, synthetic videos, written on first use); "
        "the videos of a `list` are named in text files"
    )
    parser.add_argument("--data", default="arrow", choices=DATASETS, metavar="NAME", help=data)
    parser.add_argument("--root", default="", help="the data set's folder; arrow needs none")
    named = "such as ctnet_r50 or tsm_quickstart; in Python, ctlib.list_models() has all (default: %(default)s)"
    parser.add_argument("--model", default="ctnet_quickstart", metavar="NAME", help=named)
    recipe = (
        f"{', '.join(RECIPES)}: epochs, learning rate and so on (default: that of the data set; for a folder or list, "
        "own, which fits the number of clips)"
    )
    parser.add_argument("--recipe", default="", help=recipe)
    parser.add_argument(
        "--start",
        default="",
        help="trained weights to start from: a file, or some that ship, such as ctnet_quickstart_arrow",
    )
    parser.add_argument("--name", default="", help="the run's name (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    parser.add_argument(
        "--processes", type=int, default=1, help="that train together here; 0: one per GPU (default: 1)"
    )
    overrides = (
        "other settings, such as recipe.epochs=70 data.flip=true model.dims=3 (K, sides of the channel grid); all are "
        "in ctlib/config.py, and explained in ctlib/training/README.md"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="PART.NAME=VALUE", help=overrides)
    parser.set_defaults(after_interrupt="the run is saved: the same command resumes")

    def run(options: Options) -> int:
        _check_layout(options)
        first = os.environ.get("RANK", "0") == "0"  # among the processes that torchrun starts
        root = options.root and portable(Path(options.root).expanduser().resolve())  # a record is read in any folder
        given = {"name": options.name or None, "start": options.start, "seed": options.seed, "data.root": root}
        config, reasons = fitted_config(options.data, options.model, options.recipe, " ".join(options.set), **given)
        folder = RunFolder.of(config, options.out)
        folder.check_writable()
        clips = counting("Arrow of Time, clips written") if first else None
        resolved = resolve(config, Machine(options.processes), clips)
        if first and not folder.is_finished(resolved):
            plan = make_plan(resolved, reasons=reasons)
            for what, value in plan.table().items():
                print(f"{what:<24}{value}", flush=True)
            if few := plan.too_few_steps():
                print(few, flush=True)
        with Progress(config.name, config.recipe.epochs, config.recipe.batch) as shown:
            result = ctlib.train(resolved, folder.path, on_step=shown.on_step, on_epoch=shown.on_epoch)
        if first:
            state = "" if shown.epochs_run else ", already finished"
            print(f"{config.name}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % ({folder.path}{state})")
            reached = folder.history().train_top1.iloc[-1]
            if reasons and (advice := underfit(reached, resolved.config, plan.needed_epochs)):
                print(f"{advice}, and another --name")
            print(f"to label a video: ctlib predict VIDEO --checkpoint {folder.checkpoint}")
        return 0

    return run


def evaluate(parser: Parser) -> Runner:
    """Test a trained network on a data set: top-1 and top-5 over clips x crops of each video.

    Frames, size and sampling are those that the checkpoint remembers. The scores of all views of a video are averaged.
    The data set has the classes of the checkpoint, in any order.
    """
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of this project, or of the paper's authors")
    parser.add_argument("--data", default="arrow", choices=DATASETS, metavar="NAME", help=", ".join(DATASETS))
    parser.add_argument("--root", default="", help="the data set's folder; without it, arrow is made")
    parser.add_argument(
        "--split",
        default="val",
        choices=("val", "train", "test", ALL),
        help="test: val, where the publisher or the folder calls it so; all: of a folder, both (default: val)",
    )
    parser.add_argument("--fold", type=int, help="the split of ucf101 and hmdb51: 1, 2 or 3 (default: 1)")
    parser.add_argument(
        "--val-share", type=float, help="share for testing of a folder without splits (default: of training, or 0.2)"
    )
    parser.add_argument("--checked", default="", metavar="FOLDER", help="of check-videos: bad videos are left out")
    parser.add_argument("--clips", type=int, default=1, help="per video (default: %(default)s)")
    parser.add_argument("--crops", type=int, default=1, choices=(1, 3), help="per clip (default: %(default)s)")
    for name in ("size", "short-side"):
        parser.add_argument(f"--{name}", type=int, metavar="PIXELS", help="of a frame (default: the checkpoint's)")
    parser.add_argument("--sampling", choices=SAMPLINGS, help="which frames (default: the checkpoint's)")
    parser.add_argument("--released", default="", metavar="NAME", help="of an authors' file, its network")
    parser.add_argument("--frames", type=int, metavar="T", help="of an authors' file, if its path does not say it")
    parser.add_argument("--workers", type=int, default=2, help="processes that load videos (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: a GPU if there is one")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep the scores; they are not computed again")
    parser.add_argument("--json", action="store_true", help="a record instead of text")
    parser.set_defaults(after_interrupt="nothing was written")

    def run(options: Options) -> int:
        _check_layout(options)
        checkpoints.check_exists(options.checkpoint)
        named, options.checkpoint = options.checkpoint, checkpoints.located(options.checkpoint)
        ours = checkpoints.load(options.checkpoint) if options.checkpoint.suffix == SUFFIX else None
        trained_on = ours and ours.record or {}
        data = _tested_data(options, trained_on)
        root = data.root
        if not root:
            if data.name != "arrow":
                raise ValueError(f"--root must name the folder of the data: {data.name}")
            root = arrow.ensure(ArrowConfig(), None if options.json else counting("Arrow of Time, clips written"))
        given = data.options()
        samples = load_samples(data.name, root, options.split, given.pop("checked", None), **given)
        if ours is not None:
            _check_classes(named, ours.classes, samples.classes)
        _, _, known = trained_on.get("fingerprint", "").partition("-")
        if trained_on.get("data") == data.name and known != samples.fingerprint:
            text = f"{named} was tested on other videos of {data.name}: it may have been trained on some of these"
            print(f"{parser.prog}: {text}", file=sys.stderr)
        compute = ComputeConfig(device=options.device)
        tested = Evaluation(options.checkpoint, samples, data, compute, options.released, options.frames)
        with TemporaryDirectory() as passing, _batches() as show:
            record = _test_record(score(tested, options.save or passing, show), tested)
        if data.name == "folder":
            record |= _in_folder(data, options.split)
        print(json.dumps(record, indent=2) if options.json else _as_text(record))
        return 0

    return run


def _check_layout(options: Options) -> None:
    """Raise ValueError where a folder of class folders is given for the built-in data set."""
    root = Path(options.root).expanduser()
    if options.data != "arrow" or not options.root or not root.is_dir() or (root / "classes.txt").exists():
        return
    if any(videos_in(root / name)[0] for name in subfolders(root)):
        raise ValueError(f"{options.root} has class folders and no classes.txt: did you mean --data folder?")


@contextmanager
def _batches() -> Iterator[Callable[[int, int], None]]:
    """What shows the batches that are tested, in a terminal."""
    with tqdm(unit="batch", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def share(parser: Parser) -> Runner:
    """Write a finished run's network as a folder to share: weights, config.json and a model card.

    The weights are rounded to half precision, which halves the file. They are tested again on the run's test videos,
    and the card states that accuracy. `ctlib.from_pretrained` reads the folder, and so do the other commands.
    """
    parser.add_argument("run", metavar="RUN", help="the run's folder, such as results/quickstart/CT-Net/seed0")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write; a README.md that lies there stays")
    parser.set_defaults(after_interrupt="nothing was written")

    def run(options: Options) -> int:
        with _batches() as show:
            record = share_run(options.run, options.out, show).record
        print(f"{options.out}: top-1 {record['top1']:.2f} %, before rounding {record['top1_trained']:.2f} %")
        return 0

    return run


def _check_classes(named: str, own: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ValueError unless a checkpoint has the classes of the data, in any order."""
    for names, others, what in ((wanted, own, "that it does not have"), (own, wanted, "that the data do not have")):
        if differing := [name for name in names if name not in others]:
            text = f"{named} has {len(own)} classes, other ones than the {len(wanted)} of the data: {len(differing)} "
            raise ValueError(one_line(f"{text}{what}, such as {quoted(differing[0], 60)}", 300))


def _in_folder(data: DataConfig, split: str) -> dict:
    """How many videos the whole folder has, and by which share it was split."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was said of the videos that were tested
        listed = load_samples(data.name, data.root, ALL).listed
    divided = split != ALL and not split_folders(Path(data.root).expanduser())[0]
    share = VAL_SHARE if data.val_share is None else data.val_share
    return {"in_folder": listed, "val_share": share if divided else None}


def _tested_data(options: Options, trained_on: dict) -> DataConfig:
    """The data to test on, seen as the checkpoint remembers, or as asked."""
    seen = {name: getattr(options, name) for name in ("size", "short_side", "sampling")}
    view = checkpoints.view_of(options.checkpoint)
    if view is not None:
        seen = {name: getattr(complete(view, options.checkpoint, **seen), name) for name in seen}
    elif options.size is None:
        raise ValueError(f"{options.checkpoint} does not say at which size its network was tested: give --size")
    given = {name: getattr(options, name) for name in ("root", "fold", "val_share", "checked", "clips", "crops")}
    root = Path(options.root).expanduser()
    whole = options.data != "folder" or options.split == ALL or not root.is_dir() or split_folders(root)[0]
    if given["val_share"] is None and not whole:
        given["val_share"] = trained_on.get("val_share")
    return DataConfig(name=options.data, workers=options.workers, **given, **seen)


def _test_record(scores: Scores, tested: Evaluation) -> dict:
    """What came out, on which videos, and how."""
    samples, (protocol,) = tested.samples, scores.protocols
    top1 = accuracy(scores.predictions(samples), tested.data.name)
    return {
        "data": tested.data.name,
        "root": str(samples.root),
        "fingerprint": scores.fingerprint,
        "videos": len(samples) - scores.skipped,
        "listed": samples.listed,
        "top1": scores.topk(1),
        "top1_interval": [round(top1.low, 4), round(top1.high, 4)],
        "top5": scores.topk(5),
        **protocol.to_dict(),
    }


def _share_as_text(record: dict) -> list[str]:
    if "in_folder" not in record:
        return []
    share = "" if record["val_share"] is None else f" (val_share {record['val_share']}; --split all: all of them)"
    return [f"          {record['listed']:,} of {record['in_folder']:,} videos in the folder{share}"]


def _as_text(record: dict) -> str:
    low, high = record["top1_interval"]
    return "\n".join(
        [
            f"top-1     {record['top1']:.2f} %, 95 % interval {low:.1f} to {high:.1f} %",
            f"top-5     {record['top5']:.2f} %",
            f"videos    {record['videos']:,} of {record['listed']:,} listed of {record['data']}",
            *_share_as_text(record),
            f"views     {record['clips']} clip(s) x {record['crops']} crop(s) of {record['num_frames']} frames of "
            f"{record['size']} x {record['size']}, shorter side {record['short_side']}, {record['sampling']}",
            f"network   {record['model']}, {record['gflops']:.3g} GFLOPs per view, {record['params'] / 1e6:.2f}M "
            f"parameters, {record['precision']}",
        ]
    )
