import sys

import pytest

from keras_cnns_serve.process import raise_open_files


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_as_many_files_may_be_open_as_the_system_permits() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
