from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter


def test_one_signature_of_the_graphs_names(all_formats: Path, trained: Any) -> None:
    path = all_formats / "model.tflite"
    assert path.read_bytes()[4:8] == b"TFL3"
    signatures = Interpreter(str(path)).get_signature_list()
    assert list(signatures.values()) == [{"inputs": ["images"], "outputs": ["probabilities"]}]


def test_only_operations_of_litert_itself(all_formats: Path) -> None:
    details = Interpreter(str(all_formats / "model.tflite"))._get_ops_details()
    assert not [row["op_name"] for row in details if row["op_name"].startswith("Flex")]
