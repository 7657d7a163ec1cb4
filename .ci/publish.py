"""Copy what `make` left in results/<name>/ to the folders of results/ that are in git.

    python .ci/publish.py [NAME ...]    # without names: everything that is there

Executed notebooks go to results/notebooks/, and the course's to results/teaching/. Their figures are palette PNGs (a
third of the size), a widget is its still picture, and what checks say of blank exercises is left out. Their Markdown is
that of notebooks/ today, with links that hold where they lie. A few tables and figures go to results/tables/ and
results/figures/.
"""

import base64
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
RESULTS, SOURCES = ROOT / "results", ROOT / "notebooks"
NOTEBOOKS = {  # published name -> executed notebook
    "quickstart": "quickstart/quickstart.ipynb",
    "train": "quickstart/train_CT-Net_seed0.ipynb",
    "ablation": "ablation/ablation.ipynb",  # papermill ... -p table 2g -p train False
    **{
        name: f"{name}/{name}.ipynb"
        for name in """
            evaluate costs your_own_videos report accuracy_vs_gflops saliency_tubes transfer pretrain rivals
        """.split()  # noqa: SIM905
    },
}
LESSONS = sorted(path.stem for path in SOURCES.glob("learn/*.ipynb"))  # executed in results/lessons
FILES = {  # published file -> notebook that makes it, and where
    "tables/evaluate.csv": ("evaluate", "table.csv"),
    "tables/latency.csv": ("accuracy_vs_gflops", "latency.csv"),
    "tables/localisation.csv": ("saliency_tubes", "localisation.csv"),
    "tables/localisation_differences.csv": ("saliency_tubes", "differences.csv"),
    "tables/rivals.csv": ("rivals", "rivals.csv"),
    "tables/transfer_splits.csv": ("transfer", "splits.csv"),
    "figures/quickstart_accuracy_vs_gflops.png": ("quickstart", "figures/accuracy_vs_gflops.png"),
    "ablations/figures/reproduced.png": ("report", "figures/reproduced.png"),
    "ablations/figures/gaps.png": ("report", "figures/gaps.png"),
}
COLOURS = 128


def main(names: list[str]) -> None:
    known = [*NOTEBOOKS, *LESSONS]
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"unknown notebook {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in names or known:
        folder = "notebooks" if name in NOTEBOOKS else "teaching"
        source, target = RESULTS / NOTEBOOKS.get(name, f"lessons/{name}.ipynb"), RESULTS / folder / f"{name}.ipynb"
        if source.is_file():
            write_notebook(source, target)
        elif target.is_file():
            write_notebook(target, target)
    for target, (name, path) in FILES.items():
        source = RESULTS / name / path
        if (not names or name in names) and source.is_file():
            (RESULTS / target).parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".png":
                (RESULTS / target).write_bytes(shrink(source.read_bytes()))
            else:
                shutil.copyfile(source, RESULTS / target)


def write_notebook(source: Path, target: Path) -> None:
    notebook = json.loads(source.read_text(encoding="utf-8"))
    (original,) = SOURCES.rglob(target.name)
    texts = {cell["id"]: cell["source"] for cell in json.loads(original.read_text("utf-8"))["cells"]}
    notebook.get("metadata", {}).pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(texts.get(cell["id"], cell["source"]))
            cell["source"] = relinked(text, original.parent, target.parent).splitlines(keepends=True)
        if any(re.fullmatch(r"exercise-.*-check", tag) for tag in cell.get("metadata", {}).get("tags", [])):
            cell["outputs"] = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data.pop("application/vnd.jupyter.widget-view+json", None)
                png = base64.b64decode("".join(data["image/png"]))
                data["image/png"] = base64.b64encode(shrink(png)).decode()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size // 1024} KB")


def relinked(text: str, source: Path, folder: Path) -> str:
    """Markdown of the folder `source` for `folder`: its links lead to the same files, or to copies in that folder."""

    def link(match: re.Match) -> str:
        path = match[0]
        if (folder / path).exists() or not (source / path).exists():
            return path
        return Path(os.path.relpath(source / path, folder)).as_posix()

    return re.sub(r"(?<=\]\()[^)#\s]+", link, text)


def shrink(png: bytes) -> bytes:
    """The smaller of a figure as it is, and with few colours. Its size stays, and with it that of its text."""
    image = Image.open(io.BytesIO(png))
    if image.mode == "P":
        return png
    file = io.BytesIO()
    image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return min(png, file.getvalue(), key=len)


if __name__ == "__main__":
    main(sys.argv[1:])
