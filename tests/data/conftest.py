import pytest

from tests.data.videos import encode_layouts


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A folder with the same frames in every layout."""
    return encode_layouts(tmp_path_factory.mktemp("sources"))
