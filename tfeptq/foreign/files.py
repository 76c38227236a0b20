"""Which files hold a Keras model, told without TensorFlow, and the way from others to one."""

from __future__ import annotations

from pathlib import Path

_BY_ONNX = "export it to ONNX, make a Keras model of that with onnx2tf, and pass that"
#: Ending of the file -> what it is, and what to pass instead.
_ELSEWHERE = {
    ".json": "a configuration without weights; build the model, load its weights, save it as "
    ".keras and pass that",
    ".onnx": "an ONNX model; make a Keras model of it with onnx2tf and pass that",
    ".pb": "a frozen graph, or one file of a SavedModel; pass the folder of a SavedModel",
    ".pt": f"a PyTorch model; {_BY_ONNX}",
    ".pth": f"a PyTorch model; {_BY_ONNX}",
    ".tflite": "a TFLite file, which has no layers any more; pass the Keras model that it was made "
    "from",
}


def is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").is_file()


def require_model_file(path: Path) -> None:
    """Raises ValueError for a path that holds no model of Keras, with the way to one."""
    if path.is_dir():
        if not is_saved_model(path):
            raise ValueError(
                f"{path} is a directory without a SavedModel; save the model as a .keras file and "
                "pass that"
            )
        return
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    known = _ELSEWHERE.get(path.suffix.lower())
    if known is not None:
        raise ValueError(f"{path} is {known}")
