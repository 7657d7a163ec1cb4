# The ablations through Snakemake: every run a papermill job, then a notebook a table.
#
#     snakemake -c2                                             two runs side by side on this machine
#     snakemake -c2 --config tables="2a 2g" seeds="0 1 2"       some tables, three seeds
#     snakemake -c8 --resources gpu=1 --config scale=gpu out_dir=results/ablations_gpu
#     snakemake --workflow-profile profiles/slurm --config scale=paper out_dir=... something_v1_root=...
#
# A job is declared to make the last file of the run's record (a job that fails after training loses no more than
# that file); its executed notebook is declared as a log, which Snakemake keeps when the job fails. profiles/default,
# which is read without being named, says the rest: go on after a failure, and run nothing again whose record is there,
# whatever has changed in the code. A killed sweep goes on with the same command, and each of its runs from its last
# saved state.

import os
import sys

sys.path.insert(0, str(workflow.basedir))

from ctlib import ablation, scales, sweep, verdicts

OUT = config.get("out_dir", "results/ablations")
SCALE = config.get("scale", "laptop")
TABLES = str(config.get("tables", " ".join(scales.TABLES))).split()
SEEDS = verdicts.seeds_of(str(config.get("seeds", "0 1 2")))
ROOTS = {data: config.get(scales.root_parameter(data), "") for data in scales.REAL}
GIVEN = {"scale": SCALE, "overrides": config.get("overrides", ""), "out_dir": sweep.seen_by_notebooks(OUT)}
GIVEN |= {scales.root_parameter(data): root for data, root in ROOTS.items() if root}

JOBS = {
    (job.training.config.name, str(job.training.config.seed)): job
    for job in ablation.jobs(SCALE, TABLES, seeds=SEEDS, overrides=GIVEN["overrides"])
}
ablation.check_roots(JOBS.values(), ROOTS)


RUN_NOTEBOOK = f"{OUT}/notebooks/{{name}}_seed{{seed}}.ipynb"
TABLE_NOTEBOOK = f"{OUT}/{{table}}.ipynb"


def papermill(executed, **parameters):
    notebook = os.path.relpath(os.path.join(workflow.basedir, "notebooks", "ablation.ipynb"))
    return sweep.command(notebook, executed, {**GIVEN, **parameters})


def records(wildcards):
    """Of the runs behind a table's rows."""
    needed = [key for key, job in JOBS.items() if wildcards.table in {table for table, _ in job.rows}]
    return [f"{OUT}/runs/{name}/seed{seed}/tests.json" for name, seed in needed]


wildcard_constraints:
    name="[^/]+",
    seed=r"\d+",


rule all:
    input:
        expand(f"{OUT}/tables/{{table}}.csv", table=TABLES),


# The built-in data are written once, before several runs want to.
onstart:
    sweep.begin(OUT, SCALE, GIVEN["overrides"])


rule run:
    output:
        f"{OUT}/runs/{{name}}/seed{{seed}}/tests.json",
    log:
        notebook=RUN_NOTEBOOK,
    priority: 1
    threads: 1
    resources:
        gpu=scales.SCALES[SCALE].gpus,
    params:
        command=lambda wildcards: papermill(
            RUN_NOTEBOOK.format(**wildcards), **sweep.notebook_parameters(JOBS[wildcards.name, wildcards.seed], SCALE)
        ),
    shell:
        "{params.command:q}"


rule table:
    input:
        records,
    output:
        f"{OUT}/tables/{{table}}.csv",
    log:
        notebook=TABLE_NOTEBOOK,
    threads: 1
    params:
        command=lambda wildcards: papermill(
            TABLE_NOTEBOOK.format(**wildcards), table=wildcards.table, seeds=" ".join(map(str, SEEDS)), train="False"
        ),
    shell:
        "{params.command:q}"
