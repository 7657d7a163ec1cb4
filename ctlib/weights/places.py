"""Where checkpoints lie: by path, pattern, shared folder, or the name of weights that ship."""

import os
from pathlib import Path

from ctlib import files
from ctlib.weights import SUFFIX, catalog
from ctlib.weights.hub import FILE

SUFFIXES = (SUFFIX, ".pt")  # the second is of checkpoints of formats 1 and 2, which are torch files
IN_FOLDER = (FILE, *(f"checkpoint{suffix}" for suffix in SUFFIXES))  # the second and third are a run's


def find(patterns: str, root: str | Path) -> list[Path]:
    """The files that match patterns, separated by spaces (quote a pattern with a space), in that order, each once.

    `**` matches any folders, and `[01]` one of these characters, where no path has the brackets in its name. Relative
    patterns are below `root`. A pattern for `.pt` files, as checkpoints were before, matches `.safetensors` files too,
    and the reverse. Where both lie there by one name, the later format is taken.

    Raises:
        FileNotFoundError: no pattern, or one that matches no file.
    """
    paths = []
    for pattern in files.split_words(patterns, lambda pattern: bool(_matches(pattern, root))):
        matches = _matches(pattern, root)
        if not matches:
            raise FileNotFoundError(f"no checkpoint matches {pattern!r}")
        paths += matches
    if not paths:
        raise FileNotFoundError("no checkpoint is named")
    return list(dict.fromkeys(paths))


def _matches(pattern: str, root: str | Path) -> list[Path]:
    """The files that a pattern matches: read as a path, else as a pattern (`files.matches`)."""
    path = Path(pattern).expanduser()
    exact = Path(root) / path
    if exact.is_file() or existing(exact).is_file():
        return [exact if exact.is_file() else existing(exact)]
    either = [str(path.with_suffix(suffix)) for suffix in SUFFIXES] if path.suffix in SUFFIXES else [str(path)]
    return sorted({existing(match) for match in files.matches(either, root) if os.path.isfile(match)})


def existing(path: str | Path) -> Path:
    """The checkpoint of this name in the present format, else in an earlier one; `path` itself if there is neither."""
    path = Path(path)
    either = [path.with_suffix(suffix) for suffix in SUFFIXES] if path.suffix in SUFFIXES else []
    return next((file for file in either if file.is_file()), path)


def located(path: str | os.PathLike, root: str | Path = "") -> Path:
    """The file of a checkpoint.

    Args:
        path: the file itself; a run's folder, or one that `Checkpoint.save_pretrained` wrote; or the name in `Weights`
            of a whole network's, such as "ctnet_quickstart_arrow", or its member.
        root: relative paths are below it.

    Raises:
        FileNotFoundError: an empty path.
    """
    if not str(path):
        raise FileNotFoundError("no checkpoint is named")
    file = root / Path(path).expanduser()
    shipped = catalog.named(os.fspath(path))
    if shipped is not None and shipped.is_whole and not file.exists():
        return shipped.file
    if file.is_dir():
        return next((file / name for name in IN_FOLDER if (file / name).is_file()), file / FILE)
    return file


def check_exists(path: str | os.PathLike) -> None:
    """Raise FileNotFoundError unless there is such a file; it names what was looked for, or what may be meant."""
    file = located(path)
    if file.is_file():
        return
    if file.parent == (folder := Path(path).expanduser()):
        runs = (config.parent for depth in ("seed*", "*/seed*") for config in folder.glob(f"{depth}/config.json"))
        run = next(runs, None)
        hint = f"; a run in it is {run}" if run else ""
        raise FileNotFoundError(f"no checkpoint in the folder {path}: it has none of {', '.join(IN_FOLDER)}{hint}")
    other = existing(file)
    hint = f"; {other.name} lies there" if other != file else catalog.hint(path)
    raise FileNotFoundError(f"no checkpoint {path}{hint}")
