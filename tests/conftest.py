"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import pytest

# No clock decides a test: a busy machine is slow, not wrong. The same examples in every run.
hypothesis.settings.register_profile("tfeptq", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tfeptq")

# Models are full of cycles, TensorFlow of objects that stay: looking for garbage after every 700
# new ones took a twentieth of the time.
gc.set_threshold(20_000, 20, 20)

#: Reasons to skip a test that no installation of packages mends.
_NO_PACKAGES = ("Skipped: no assets", "Skipped: no Chromium")
ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-missing-packages",
        action="store_true",
        help="a test that is skipped for want of a package fails",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.skipped and item.config.getoption("--no-missing-packages"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
        if not reason.startswith(_NO_PACKAGES):
            report.outcome, report.longrepr = (
                "failed",
                f"{item.nodeid} may not be skipped: {reason}",
            )
    return report


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of pretrained models and labelled data; tests that need it skip without it."""
    folder = Path(os.environ.get("TFEPTQ_ASSETS", ROOT / "../shared/assets")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no assets at {folder}; set TFEPTQ_ASSETS to their folder")
    return folder
