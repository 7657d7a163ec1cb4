"""A small study: runs of a step or two, done once for all tests of the study."""

import pytest

from ctlib.study import sweep
from ctlib.study.jobs import jobs
from ctlib.study.scales import Study

TINY = (
    "data.size=24 data.workers=0 recipe.epochs=1 recipe.warmup=0 recipe.batch=8 arrow.train_clips=16 "
    "arrow.val_clips=32 arrow.size=24"
)
STUDY = Study("laptop", TINY)


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """Table 2h with two seeds, and of Table 6 one ensemble with one seed."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTLIB_CACHE", str(out.parent / "study_cache"))
        sweep.open_study(STUDY, out)
        for job in jobs(STUDY, ["2h"], seeds=(0, 1)) + jobs(STUDY, ["6"], ["CT-Net_EN 8+16"]):
            sweep.complete(job, out)
    return out
