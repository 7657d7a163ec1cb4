"""The command line: `python -m ctlib COMMAND --help`."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from ctlib.data import arrow
from ctlib.notebook import counting


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ctlib", description="The reference study of CT-Net.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    make = commands.add_parser(
        "arrow",
        help="write the built-in data set, Arrow of Time",
        description="Write the built-in data set, Arrow of Time, as video files and lists; print its folder.",
    )
    make.add_argument("--root", type=Path, help="the folder to make (default: one in the cache, made once)")
    defaults = arrow.ArrowConfig()
    for entry in fields(defaults):
        default = getattr(defaults, entry.name)
        make.add_argument(
            f"--{entry.name.replace('_', '-')}", type=type(default), default=default, help=f"default: {default}"
        )
    make.set_defaults(run=write_arrow, parts=[entry.name for entry in fields(defaults)])

    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"python -m ctlib {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"python -m ctlib {options.command}: interrupted; nothing was written", file=sys.stderr)
        return 130


def write_arrow(options: argparse.Namespace) -> int:
    config = arrow.ArrowConfig(**{name: getattr(options, name) for name in options.parts})
    show = counting("Arrow of Time, clips written")
    print(arrow.ensure(config, show) if options.root is None else arrow.write(config, options.root, on_clips=show))
    return 0


if __name__ == "__main__":
    sys.exit(main())
