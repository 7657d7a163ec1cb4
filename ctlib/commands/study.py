"""Commands of the study: costs and ablations."""

import functools
import json
import math
import sys
from pathlib import Path

from ctlib import files
from ctlib.commands.command import Options, Parser, Runner
from ctlib.config import unknown_name
from ctlib.display.progress import Progress, counting
from ctlib.study import jobs, results, scales, sweep, systems, tables
from ctlib.training.snapshots import SnapshotError
from ctlib.training.trainer import TrainingError

ERRORS = (SnapshotError, TrainingError)


def costs(parser: Parser) -> Runner:
    """Count every cost that the paper publishes, beside the published number: of CT-Net, then of other systems.

    It takes half a minute to a minute. GFLOPs are as the paper's row gives them: of all views in Tables 3 and 6, of one
    view elsewhere. Those of other systems are of one view, and with or without batch norms, as their papers count.
    """
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


def ablations(parser: Parser) -> Runner:
    """Train and test the rows of the paper's ablations, as the study's plan says.

    The plan is in blocks: all networks with seed 0, then with seed 1. After 5, 10 and 20 blocks comparisons are tested,
    and networks whose comparisons are all decided stop. One call does the runs up to the next look. Finished runs are
    not repeated, nor are those in the tables of the study. These are written to OUT, or, if OUT is called `runs`,
    beside it to `ablations`. The exit code is 1 if a run failed.
    """
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

        if not options.list:
            files.check_writable(options.out)
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
            sweep.print_status(study, options.out, options.tables)
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
    records = []
    for job in jobs:
        config = job.config
        built_in = config.arrow.to_dict() if config.data.name == "arrow" and not config.data.root else None
        record = {"run": config.name, "seed": config.seed, "rows": config.rows}
        records.append(record | {"gpus": scales.SCALES[study.scale].gpus, "arrow": built_in})
    print(json.dumps(records, indent=2))
    return 0


def do_runs(jobs: list, study, out: Path) -> int:
    sweep.open_study(study, out)
    for job in jobs:
        recipe = job.config.recipe
        with Progress(job.label(), recipe.epochs, recipe.batch) as shown:
            clips = counting("Arrow of Time, clips written")
            result = sweep.complete(job, out, 1, shown.on_step, shown.on_epoch, on_clips=clips)
        print(f"{job.label()}: top-1 {result['top1']:.2f} % ({job.folder(out).path})")
    return 0
