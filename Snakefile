# The ablations beyond one machine: every run is a job, and then the tables of the study are written.
#
#     make .venv-snakemake/installed && source .venv-snakemake/bin/activate
#     snakemake -c2                                             two runs side by side on this machine
#     snakemake -c2 --config tables="2a 2g" seeds="0 1 2"       some tables, three seeds; more seeds may follow
#     snakemake -c8 --resources gpu=1 --config scale=gpu out_dir=results/runs_gpu
#     snakemake --workflow-profile profiles/slurm --config scale=paper out_dir=... something_v1_root=...
#
# Snakemake lives in an environment of its own and does not import ctlib: it asks `python -m ctlib ablations --list`
# which runs there are, and each job is a call of `python -m ctlib ablations --run`. A job makes the last file of the
# run's record. profiles/default, which Snakemake reads by itself, says the rest: continue after a failure, and do no
# run again whose record exists, whatever has changed in the code. The same command resumes a killed sweep, and each of
# its runs from the last snapshot.

import difflib
import json
import os
import subprocess
from pathlib import Path

BASE = Path(workflow.basedir)
ROOTS = {"something_v1_root": "--something-v1-root", "mini_kinetics_200_root": "--mini-kinetics-200-root"}
KEYS = ("tables", "seeds", "scale", "out_dir", "overrides", "python", *ROOTS)


def words(name, default=""):
    """Tables or seeds: words in a text, a number, or the list of a configuration file."""
    value = given.get(name, default)
    return [word for item in (value if isinstance(value, list) else [value]) for word in str(item).split()]


def text(name, default=""):
    """A text. Snakemake has read what looks like another value, and 2024_01 would be 202401."""
    value = given.get(name, default)
    if not isinstance(value, str):
        raise WorkflowError(
            f"{name} of --config must be text, and Snakemake reads {type(value).__name__} {value!r}: "
            "write a folder with such a name as ./NAME"
        )
    return value


given = {name: value for name, value in config.items() if value is not None}  # None: "tables="
for name in config:
    if name not in KEYS:
        near = difflib.get_close_matches(name, KEYS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise WorkflowError(f"unknown key {name!r} of --config: {hint}known are {', '.join(KEYS)}")

PYTHON = text("python", str(BASE / ".venv" / "bin" / "python"))
OUT = os.path.expanduser(text("out_dir", "results/runs"))
SEEDS = words("seeds", "0 1 2")
if "{" in OUT or "}" in OUT:
    raise WorkflowError(f"out_dir of --config must be without braces, which are Snakemake's wildcards, got {OUT}")
existing = next(path for path in (Path(OUT).absolute(), *Path(OUT).absolute().parents) if path.exists())
if not existing.is_dir():
    raise WorkflowError(f"out_dir of --config must be a folder, and {existing} is none")

# ctlib is imported from this project, wherever Snakemake was called.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BASE), os.environ.get("PYTHONPATH")]))

ABLATIONS = [PYTHON, "-m", "ctlib", "ablations", OUT, "--scale", text("scale", "laptop")]
for name, option in ROOTS.items():
    ABLATIONS += [option, text(name)] if text(name) else []
if text("overrides"):
    ABLATIONS += ["--set", text("overrides")]
if words("tables"):
    ABLATIONS += ["--tables", *words("tables")]

LIST = subprocess.run([*ABLATIONS, "--seeds", *SEEDS, "--list"], stdout=subprocess.PIPE, text=True)
if LIST.returncode:
    raise WorkflowError("the runs could not be listed: see the line above")
JOBS = json.loads(LIST.stdout)


# The built-in data are written once, before several runs want to.
onstart:
    for arrow in {json.dumps(job["arrow"]): job["arrow"] for job in JOBS if job["arrow"]}.values():
        options = [word for name, value in arrow.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        subprocess.run([PYTHON, "-m", "ctlib", "arrow", *options], check=True)


wildcard_constraints:
    name="[^/]+",
    seed=r"\d+",


rule all:
    input:
        [f"{OUT}/{job['run']}/seed{job['seed']}/tests.json" for job in JOBS],
    params:
        command=[*ABLATIONS, "--seeds", *SEEDS],
    shell:
        "{params.command:q}"  # finds all runs finished, and writes the tables


rule run:
    output:
        f"{OUT}/{{name}}/seed{{seed}}/tests.json",
    threads: 1
    resources:
        gpu=max(job["gpus"] for job in JOBS),
    params:
        command=lambda wildcards: [*ABLATIONS, "--run", wildcards.name, "--seeds", wildcards.seed],
    shell:
        "{params.command:q}"
