"""Find the versions of an exported model, `models/NAME/1`, `models/NAME/2`, ..."""

from pathlib import Path

MANIFEST = "model.json"  # of all files of a version, this one is written last


def find_versions(model: Path) -> dict[int, Path]:
    """Return a dict from version number to directory, in ascending order."""
    found = {int(each.name): each for each in model.glob("[1-9]*") if each.name.isdecimal()}
    return dict(sorted(found.items()))


def find_published(path: Path) -> list[Path]:
    """Return the complete versions of `models/NAME`, ascending, or `models/NAME/VERSION` itself."""
    versions = [path] if (path / MANIFEST).is_file() else find_versions(path).values()
    return [version for version in versions if (version / MANIFEST).is_file()]
