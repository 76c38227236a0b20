"""The name that was probably meant: by spelling, or by what people call it elsewhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

#: Known name -> how the names begin, in small letters and digits, that people write for it.
_ELSEWHERE = {
    "android": ("ios", "litert", "mobile", "phone", "raspberrypi", "tflite", "xnnpack"),
    "coral": ("edgetpu", "googlecoral", "tpu", "usbaccelerator"),
    "ethos-u": ("arm", "ethos", "npu", "u55", "u65", "u85", "vela"),
    "microcontroller": (
        "arduino",
        "cmsisnn",
        "cortexm",
        "esp",
        "mcu",
        "micro",
        "nrf52",
        "rp2040",
        "stm32",
        "tflitemicro",
        "tflm",
    ),
    "activation_bits": ("abits", "actbits"),
    "activation_bytes": ("memory", "ram"),
    "bit_operations": ("bops", "flops", "macs"),
    "learning_rate": ("lr",),
    "samples": ("calibration", "nsamples", "numsamples"),
    "steps": ("epochs", "iterations", "maxsteps"),
    "target": ("backend", "device", "platform"),
    "weight_bits": ("bits", "bitwidth", "nbits", "numbits", "precision", "wbits"),
    "weight_bytes": ("bytes", "flash", "maxbytes", "size"),
    "eptq": ("adaround", "learn", "train"),
    "optq": ("gptq", "gptaq"),
    "nearest": ("none", "round", "rtn"),
    "litert": ("tflite", "xnnpack"),
}


def meant(value: Any, allowed: Iterable[str]) -> str | None:
    """The one of `allowed` that `value` may stand for, if any."""
    if not isinstance(value, str):
        return None
    plain = "".join(letter for letter in value.lower() if letter.isalnum())
    for known in allowed:
        if plain.startswith(_ELSEWHERE.get(known, ())):
            return known
    close = difflib.get_close_matches(value.lower(), allowed, 1)
    return close[0] if close else None


def require_known(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raises ValueError for a value that is none of `allowed`, with the one that was meant."""
    if isinstance(value, str) and value in allowed:
        return
    close = meant(value, allowed)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ValueError(
        f"{name} {' '.join(repr(value).split()):.80} is unknown; "
        f"allowed are {', '.join(allowed)}{hint}"
    )
