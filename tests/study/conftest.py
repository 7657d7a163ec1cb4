"""A small study: runs of a step or two, done once for all tests of the study."""

import pytest
from filelock import FileLock

from ctlib.study import sweep
from ctlib.study.jobs import jobs
from ctlib.study.scales import Study

TINY = (
    "data.size=24 data.workers=0 recipe.epochs=1 recipe.warmup=0 recipe.batch=8 arrow.train_clips=16 "
    "arrow.val_clips=16 arrow.size=24"
)
STUDY = Study("laptop", TINY)


@pytest.fixture(scope="session")
def small_study(tmp_path_factory, worker_id):
    """Table 2h with two seeds, and of Table 6 one ensemble with one seed; one for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "study"
    with pytest.MonkeyPatch.context() as patch, FileLock(f"{out}.lock"):
        patch.setenv("CTLIB_CACHE", f"{out}_cache")
        if not out.exists():
            sweep.open_study(STUDY, out)
        for job in jobs(STUDY, ["2h"], seeds=(0, 1)) + jobs(STUDY, ["6"], ["CT-Net_EN 8+16"]):
            sweep.complete(job, out)  # finished runs are found
    return out
