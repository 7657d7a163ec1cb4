"""Logs of a run in the trackers that Accelerate knows: TensorBoard, Weights & Biases, MLflow and others."""

import uuid
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from ctlib import files
from ctlib.config import RunConfig, check_choice, flat

_FILE = "tracker.json"  # in a run's folder: the identity of its log, so that a run that resumes goes on in it


def check_tracker(name: str) -> None:
    """Raise ValueError for a tracker that Accelerate does not know, or whose library is not installed."""
    check_choice("compute.tracker", name, ("none", *sorted(LOGGER_TYPE_TO_CLASS)))
    built_in = [str(known) for known in LoggerType]  # any other was registered, with its library
    if name in built_in and name not in map(str, get_available_trackers()):
        package = name.replace("_", "-")
        raise ValueError(f"compute.tracker {name!r} needs its library, which is not installed: pip install {package}")


def begin_log(accelerator: Accelerator, config: RunConfig, folder: Path, steps_done: int) -> None:
    """Open the log of a run in its tracker, or the same log again where the run resumes.

    TensorBoard, Weights & Biases, trackio, SwanLab, DVCLive and MLflow go on in the log of before. Any other tracker
    begins one for each session.

    Args:
        accelerator: with the tracker as `log_with`.
        folder: of the run. TensorBoard's log lies in it, and what identifies a log elsewhere.
        steps_done: 0 where the run begins.
    """
    name, path = config.compute.tracker, folder / _FILE
    known = files.read_json(path) if steps_done and path.is_file() else {}
    known = known if known.get("tracker") == name else {"tracker": name, "id": uuid.uuid4().hex[:12]}
    title = f"{config.name}, seed {config.seed}"
    by_id = {"name": title, "id": known["id"], "resume": "allow"}
    options = {
        "tensorboard": {"purge_step": steps_done},
        "wandb": {"dir": str(folder), **by_id},
        "swanlab": {"experiment_name": title, "id": known["id"], "resume": "allow"},
        "trackio": {"name": f"{title}, {known['id']}", "resume": "allow"},
        "dvclive": {"dir": str(folder / "dvclive"), "resume": bool(steps_done)},
        "mlflow": {"run_name": title, "run_id": known.get("run_id")},
    }
    begun = None
    if not steps_done and name != "tensorboard":  # whose figures of it are another run
        values = dict(flat(config.to_dict())).items()
        begun = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values}
    # TensorBoard's project is a folder in the run's own.
    project = "tensorboard" if name == "tensorboard" else "ctlib"
    accelerator.init_trackers(project, begun, {name: options.get(name, {})})
    if accelerator.is_main_process:
        if name == "mlflow":
            known["run_id"] = accelerator.get_tracker(name, unwrap=True).info.run_id
        if name != "tensorboard":
            files.write_json(path, known)
