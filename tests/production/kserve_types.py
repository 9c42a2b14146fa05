"""Read manifests as KServe's types: python kserve_types.py FILE ...

It runs in the environment of `make check-deploy`, which has the package kserve without its
requirements: they are half a gigabyte, and its types need none but the client of Kubernetes.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiClient

_KINDS = {
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
    "InferenceService": "V1beta1InferenceService",
}


def _lost(manifest: Any, known: Any, where: str = "") -> str:
    """Return the path of the first value that a type has dropped, or an empty text."""
    if isinstance(manifest, dict) and isinstance(known, dict):
        pairs = [(key, value, known.get(key)) for key, value in manifest.items()]
    elif isinstance(manifest, list) and isinstance(known, list) and len(manifest) == len(known):
        pairs = [(i, *both) for i, both in enumerate(zip(manifest, known, strict=True))]
    else:
        return "" if manifest == known else where
    return next(filter(None, (_lost(a, b, f"{where}/{key}") for key, a, b in pairs)), "")


def main() -> None:
    """Exit with a message if a manifest has a key that its type lacks."""
    found = importlib.util.find_spec("kserve")
    if found is None or found.submodule_search_locations is None:
        sys.exit("the package kserve is not installed")
    package = types.ModuleType("kserve")  # without its __init__, which imports the requirements
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["kserve"] = package
    models = importlib.import_module("kserve.models")
    client = ApiClient()  # before release 33, it reads the types that the package has
    # Types of Kubernetes within KServe's are found by their names.
    for name in dir(models):
        if name.startswith("V"):
            setattr(sys.modules["kubernetes.client.models"], name, getattr(models, name))
    for path in sys.argv[1:]:
        manifest = yaml.safe_load(Path(path).read_text("utf-8"))
        kind = _KINDS[manifest["kind"]]
        known = client._ApiClient__deserialize(manifest, getattr(models, kind))
        if lost := _lost(manifest, client.sanitize_for_serialization(known)):
            sys.exit(f"{path}: {kind} does not know {lost}")
        print(f"{path}: {kind}")


if __name__ == "__main__":
    main()
