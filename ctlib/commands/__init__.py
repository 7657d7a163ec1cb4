"""The command line: `ctlib COMMAND --help`, or `python -m ctlib COMMAND --help`.

One file per group of commands; only the file of the command that is called is imported.
"""

import ast
import io
import sys
import warnings
from importlib import import_module
from pathlib import Path

from tqdm import tqdm

import ctlib
from ctlib.commands.command import Options, Parser, Runner
from ctlib.data.video import VideoError

# Each command, and the file that it is in.
COMMANDS = {
    "arrow": "datasets",
    "train": "training",
    "evaluate": "training",
    "share": "training",
    "check-videos": "datasets",
    "prepare": "datasets",
    "clear-cache": "datasets",
    "costs": "study",
    "predict": "networks",
    "export": "networks",
    "ablations": "study",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 where the command says so, 2 for an error, 130 if it was interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = "ctlib" if Path(sys.argv[0]).stem == "ctlib" else "python -m ctlib"
    parser = Parser(prog=program, description="The reference study of CT-Net.")
    parser.add_argument("--version", action="version", version=f"ctlib {ctlib.__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = None
    for name in COMMANDS:
        command_parser = parsers.add_parser(name, help=_summary(name))
        if name in arguments[:1]:
            module = import_module(f"{__name__}.{COMMANDS[name]}")
            command = getattr(module, name.replace("-", "_"))
            command_parser.description = command.__doc__
            run, errors = command(command_parser), getattr(module, "ERRORS", ())
    options = parser.parse_args(arguments)
    if run is None:
        parser.error("a command comes first")
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that are not text are printed as they are on the disk
        is_utf8 = sys.stdout.encoding.lower() == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
    return _run(run, options, f"{program} {options.command}:", errors)


def _summary(name: str) -> str:
    """The first line of a command's help, read without an import."""
    tree = ast.parse(Path(__file__).with_name(f"{COMMANDS[name]}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if getattr(node, "name", "") == name.replace("-", "_"))
    return ast.get_docstring(function).partition("\n")[0].removesuffix(".")


def _run(run: Runner, options: Options, failed: str, errors: tuple) -> int:
    try:
        with warnings.catch_warnings():  # they are printed like errors: one line each
            warnings.showwarning = lambda message, *_: tqdm.write(f"{failed} {message}", file=sys.stderr)
            return run(options)
    except (ValueError, TypeError, ImportError, OSError, VideoError, *errors) as error:
        print(failed, error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(failed, str(stopped) or f"interrupted; {options.after_interrupt}", file=sys.stderr)
        return 130
