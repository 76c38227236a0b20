"""Which files hold a Keras model, told without TensorFlow, and the way from others to one."""

from __future__ import annotations

from pathlib import Path

_BY_ONNX = "export it to ONNX, make a Keras model of that with onnx2tf, and pass that"
_DATA = "data, not a model; pass the .keras file of the model"
#: Endings of files that hold a Keras model.
_OWN = (".keras", ".h5", ".hdf5")
#: Ending of the file -> what it is, and what to pass instead.
_ELSEWHERE = {
    ".json": "a configuration without weights; build the model, load its weights, save it as "
    ".keras and pass that",
    ".npy": _DATA,
    ".npz": _DATA,
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
    suffix = path.suffix.lower()
    if suffix in _ELSEWHERE:
        raise ValueError(f"{path} is {_ELSEWHERE[suffix]}")
    if suffix not in _OWN:
        raise ValueError(
            f"{path}: no Keras model has the ending {suffix!r}; pass a file that "
            f"ends in {', '.join(_OWN)}, or the folder of a SavedModel"
        )
