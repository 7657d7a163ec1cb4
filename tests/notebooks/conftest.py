import pytest

from tests.notebooks import by_papermill, run_here


@pytest.fixture(scope="module", params=["here", pytest.param("papermill", marks=pytest.mark.slow)])
def run(request):
    """Runs a notebook: in this process, and, among the slow tests, as papermill does."""
    return run_here if request.param == "here" else by_papermill
