"""What a run depended on."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from keras_cnns.runs.environment import describe_checkout

# The module `tensorflow` is installed, but no distribution of that name: at first none lists the
# module, then `tensorflow-cpu` does. No distribution `tensorflow-datasets` is installed.
OTHER_TENSORFLOW = """
import json, sys
from importlib import metadata

find_all = metadata.MetadataPathFinder.find_distributions
others = False

class Renamed(metadata.PathDistribution):
    @property
    def metadata(self):
        message = super().metadata
        message.replace_header("Name", "tensorflow-cpu")
        return message

def find(context=metadata.DistributionFinder.Context()):
    if context.name in ("tensorflow", "tensorflow-datasets"):
        return
    if others and context.name in (None, "tensorflow-cpu"):
        hidden = metadata.DistributionFinder.Context(name="tensorflow")
        yield from (Renamed(each._path) for each in find_all(hidden))
    for each in find_all(context):
        if each.metadata["Name"] not in ("tensorflow", "tensorflow-datasets"):
            yield each

metadata.MetadataPathFinder.find_distributions = find

import tensorflow
from keras_cnns.recipes import load_recipe
from keras_cnns.runs.environment import describe_environment

recipe = load_recipe("digits-resnet20")
found = [describe_environment(recipe, "")["packages"]]
del sys.modules["tensorflow"]
found.append(describe_environment(recipe, "")["packages"])
others = True
found.append(describe_environment(recipe, "")["packages"])
print(json.dumps(found))
"""


def test_a_package_of_another_or_no_distribution_is_no_error() -> None:
    process = subprocess.run(
        [sys.executable, "-c", OTHER_TENSORFLOW], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    tensorflow = metadata.version("tensorflow")
    packages = json.loads(process.stdout)
    assert [each["tensorflow"] for each in packages] == [tensorflow, None, tensorflow]
    for each in packages:
        assert each["tensorflow-datasets"] is None
        assert each["keras"] == metadata.version("keras")


def git(folder: Path, *arguments: str) -> str:
    own = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *own, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_is_named_by_its_commit_and_what_is_not_in_it_has_none(tmp_path: Path) -> None:
    nothing = {"commit": None, "has_changes": None}
    assert describe_checkout(tmp_path) == nothing
    git(tmp_path, "init", "-q")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "package.py").touch()
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "First")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert describe_checkout(tmp_path) == {"commit": commit, "has_changes": False}
    assert describe_checkout(tmp_path / "installed") == nothing
    (tmp_path / "code.py").write_text("x = 2\n")
    assert describe_checkout(tmp_path) == {"commit": commit, "has_changes": True}
