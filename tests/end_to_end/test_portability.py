"""Windows has neither `fcntl` nor `resource`, macOS no `os.sched_getaffinity`."""

import subprocess
import sys

import pytest

# Only our own packages cannot import these modules: other packages have other code for Windows.
WITHOUT = """
import builtins, importlib, os, pkgutil, sys

package = sys.argv[1]
del os.sched_getaffinity
find = builtins.__import__

def refuse(name, globals=None, *arguments, **options):
    importer = (globals or {}).get("__name__", "")
    if name in ("fcntl", "resource") and importer.startswith("keras_cnns"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return find(name, globals, *arguments, **options)

builtins.__import__ = refuse
root = importlib.import_module(package)
for module in pkgutil.walk_packages(root.__path__, f"{package}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

USES = {
    "keras_cnns": """
from pathlib import Path
from keras_cnns.cores import available_cores
from keras_cnns.training.dry_run import _peak_memory
from keras_cnns.runs.lock import locked
assert available_cores() == os.cpu_count()
assert 2**24 < _peak_memory() < 2**36
folder = Path(sys.argv[2], "run")
with locked(folder):
    assert folder.is_dir()
assert not folder.exists()
""",
    "keras_cnns_export": """
from pathlib import Path
from keras_cnns_export.publish import Draft
model = Path(sys.argv[2], "digits")
(model / ".partial-of-another").mkdir(parents=True)
with Draft(model) as draft:
    (draft.path / "labels.txt").write_text("zero")
    assert draft.publish() == model / "1"
assert (model / ".partial-of-another").is_dir()  # without locks it may be alive
""",
    "keras_cnns_serve": """
from keras_cnns_serve import process
from keras_cnns_serve.core.limits import usable_cores
assert usable_cores() == os.cpu_count()
process.raise_open_files()
""",
}


@pytest.mark.soak
@pytest.mark.parametrize("package", USES)
def test_a_system_without_fcntl_resource_and_affinity(package: str, tmp_path: object) -> None:
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT + USES[package], package, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
