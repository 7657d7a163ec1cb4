"""The command line: `python -m ctlib COMMAND --help`."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import pandas as pd

from ctlib import study
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

    ledger = commands.add_parser(
        "costs",
        help="every cost that the paper publishes, counted beside it",
        description="Count every published cost that this code can build, beside the published figure: about "
        "15 seconds. GFLOPs are as the paper's row gives them: of all views in Tables 3 and 6, of one view elsewhere.",
    )
    ledger.add_argument("--json", action="store_true", help="records instead of a table; parameters are counts")
    ledger.set_defaults(run=print_costs)

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


def print_costs(options: argparse.Namespace) -> int:
    table = study.ledger()
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
            "GFLOPs, paper": table.gflops_paper,
            "counted": table.gflops.round(2),
            "difference": (table.gflops - table.gflops_paper).round(2),
            "params (M), paper": (table.params_paper / 1e6).round(1),
            "counted ": (table.params / 1e6).round(2),
            "difference ": ((table.params - table.params_paper) / 1e6).round(2),
        }
    )
    print(shown.to_string(index=False, na_rep="-"))
    noted = table[table.note != ""]
    for line in noted.itertuples():
        print(f"\nTable {line.table}, {line.row}: {line.note}.")
    for what, name in (("gflops", "GFLOPs"), ("params", "numbers of parameters")):
        meets = table[f"{what}_meets"].dropna()
        print(f"\n{meets.sum()} of {len(meets)} published {name} are met.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
