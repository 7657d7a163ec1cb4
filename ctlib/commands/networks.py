"""Commands that use a trained network: predict and export."""

import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from ctlib import checkpoints, deploy, files, prediction
from ctlib.commands.command import Options, Parser, Runner
from ctlib.data.catalog.sources import is_video_file, stem_of
from ctlib.data.sampling import SAMPLINGS
from ctlib.data.video import VideoError

CHECKPOINT = f"a trained network: a file, a shared folder, or weights that ship, such as {prediction.SHIPPED}"
TRAINED = "(default: as the network was trained)"


def predict(parser: Parser) -> Runner:
    """Label videos with a trained network: the most probable classes, with their probabilities.

    A video is seen as in testing: T frames of the whole video, or of each of several windows along it. The video's
    label is then that of the mean of its windows' scores. A video that cannot be read is named and
    skipped, and the exit code is then 1.
    """
    named = "video files, folders of them or of numbered images, or quoted patterns such as 'clips/**/*.mp4'"
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help=named)
    parser.add_argument("--checkpoint", metavar="PATH", help=f"{CHECKPOINT}, the default")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="how many classes (default: %(default)s)")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--windows", type=int, metavar="N", help="label N equal parts of a video, and their mean")
    parts.add_argument("--seconds", type=float, help="label parts of about this length, and their mean")
    parser.add_argument("--json", action="store_true", help="one list of records, with the frames that were seen")
    overlay = "write each video with its label and Saliency Tube: one .mp4 file, else a folder; old ones are replaced"
    parser.add_argument("--overlay", type=Path, metavar="OUT", help=overlay)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: a GPU if there is one")
    for name in ("size", "short-side"):
        parser.add_argument(f"--{name}", type=int, metavar="PIXELS", help=f"of a frame {TRAINED}")
    parser.add_argument("--frames", type=int, dest="num_frames", metavar="T", help=f"per clip {TRAINED}")
    parser.add_argument("--sampling", choices=SAMPLINGS, help=f"which frames {TRAINED}")
    parser.set_defaults(after_interrupt="the labels above are complete")

    def run(options: Options) -> int:
        try:
            return _predict(options, parser.prog)
        except BrokenPipeError:  # who reads the labels, such as `head`, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
            return 141  # as the shell says of a program that ends so

    return run


def _predict(options: Options, program: str) -> int:
    if options.top < 1:
        raise ValueError(f"top must be at least 1, got {options.top}")
    windows = prediction.Windows(options.windows, options.seconds)
    sources = prediction.find_videos(options.videos)
    overlays = _overlays(options.overlay, sources)
    view = {name: getattr(options, name) for name in ("num_frames", "size", "short_side", "sampling")}
    named = prediction.SHIPPED if options.checkpoint is None else options.checkpoint
    trained = prediction.opened(named, options.device, **view)
    if options.checkpoint is None:
        known = f"{prediction.SHIPPED}, which knows {len(trained.classes)} synthetic actions"
        print(f"{program}: no --checkpoint: labels are those of {known}", file=sys.stderr)
    records = []
    try:
        for source in tqdm(sources, unit="video", disable=None if len(sources) > 1 else True):
            records.append({"video": source})
            failed = "error"
            try:
                scores = prediction.score(source, trained, windows)
                records[-1] = scores.to_dict(options.top)
                if not options.json:
                    tqdm.write(_as_text(scores, options.top))
                    sys.stdout.flush()
                failed = "overlay_error"
                if overlays:
                    _write_overlay(overlays[source], scores, trained)
            except BrokenPipeError:
                raise
            except (VideoError, ValueError, TypeError, OSError) as error:
                text = str(error) if source in str(error) else f"{source}: {error}"
                tqdm.write(f"{program}: {files.unbroken(text)}", file=sys.stderr)
                records[-1][failed] = text
    finally:  # also after an interruption
        if options.json:
            print(_as_json([record for record in records if len(record) > 1]), flush=True)
    return int(any({"error", "overlay_error"} & record.keys() for record in records))


def _as_json(records: list[dict]) -> str:
    """One list, with a line per record."""
    lines = ",\n ".join(json.dumps(record, ensure_ascii=False) for record in records)
    # A file name that is no UTF-8 holds surrogates, which JSON writes as escapes.
    return f"[{lines}]".encode(errors="backslashreplace").decode()


def _as_text(scores: prediction.VideoScores, top: int) -> str:
    seconds = "" if scores.duration is None else f", {scores.duration:.1f} s"
    lines = [f"{files.unbroken(scores.source)}  ({scores.length} frames{seconds})"]
    if len(scores.bounds) > 1:
        for number, (first, end) in enumerate(scores.bounds):
            times = scores.seconds(number)
            where = f"frames {first} to {end - 1}" if times is None else f"{times[0]:.1f} to {times[1]:.1f} s"
            lines.append(f"  {where:<20}{_line(scores.top(1, number)[0])}")
        lines.append(f"  mean of {len(scores.bounds)} windows")
    return "\n".join([*lines, *(f"  {_line(answer)}" for answer in scores.top(top))])


def _line(answer: dict) -> str:
    return f"{100 * answer['probability']:5.1f} %  {answer['label']}"


def _overlays(out: Path | None, sources: list[str]) -> dict[str, Path]:
    """Where the overlay of each video goes, after a look at whether it can be written."""
    if out is None:
        return {}
    if out.suffix.lower() == ".mp4":
        if len(sources) > 1:
            raise ValueError(f"{len(sources)} videos are named: give --overlay a folder, got {out}")
        paths = [out]
    else:
        if is_video_file(out.name) and not out.is_dir():
            raise ValueError(f"an overlay is an .mp4 file or a folder, got {out}")
        paths = [out / name for name in _names(sources)]
    videos = {os.path.realpath(source) for source in sources}
    for path in paths:
        if os.path.realpath(path) in videos:
            raise ValueError(f"an overlay would replace its video: name another place than {out}")
        if path.is_dir():
            raise IsADirectoryError(f"an overlay cannot be written to {path}: it is a folder")
    for folder in {path.parent for path in paths}:
        files.check_writable(folder)
    return dict(zip(sources, paths, strict=True))


def _names(sources: list[str]) -> list[str]:
    """What the overlays are called: as the videos, below their folders where names repeat."""
    videos = [os.path.abspath(source) for source in sources]
    common = os.path.commonpath([os.path.dirname(video) for video in videos])
    inside = [os.path.relpath(video, common) for video in videos]
    short = [stem_of(os.path.basename(video)) for video in videos]
    # The last is for videos of one folder that differ by their ending alone.
    choices = (short, [stem_of(path) for path in inside], inside)
    return [f"{name}.mp4" for name in next(names for names in choices if len(set(names)) == len(names))]


def _write_overlay(path: Path, scores: prediction.VideoScores, trained: checkpoints.Checkpoint) -> None:
    from ctlib.display import overlay

    path.parent.mkdir(parents=True, exist_ok=True)
    notes = ["replaced"] if path.exists() else []
    if without := overlay.write(path, scores, trained):
        notes.append(without)
    tqdm.write(f"{files.unbroken(str(path))}{': ' if notes else ''}{'; '.join(notes)}", file=sys.stderr)


def export(parser: Parser) -> Runner:
    """Write a trained network as an ONNX file.

    The network is optimized for inference and takes clips (N, 3, T, SIZE, SIZE), with any N. This needs the extra:
    pip install 'ctlib[onnx]'.
    """
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help=CHECKPOINT)
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write; an existing one is replaced")
    parser.add_argument("--size", type=int, help=f"pixels, height and width of a frame {TRAINED}")
    parser.add_argument("--frames", type=int, help=f"T {TRAINED}")
    parser.set_defaults(after_interrupt="nothing was written")

    def run(options: Options) -> int:
        deploy.export(options.checkpoint, options.out, options.size, options.frames)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
        return 0

    return run
