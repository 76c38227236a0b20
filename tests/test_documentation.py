"""What the documentation promises: short, complete, no link into nothing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tfeptq
import tflite_export

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("package", [tfeptq, tflite_export], ids=lambda package: package.__name__)
def test_every_public_name_has_its_place_in_the_reference(package):
    documented = {
        line.rsplit(".", 1)[1]
        for line in (ROOT / "docs" / "api.md").read_text("utf-8").splitlines()
        if line.startswith(f"::: {package.__name__}.")
    }
    assert {name for name in package.__all__ if not name.startswith("__")} == documented


def test_messages_that_are_explained_are_said():
    """The first column of docs/messages.md quotes the product, but for values."""
    said = {
        " ".join(node.value.split())
        for package in ("tfeptq", "tflite_export")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    said |= {
        " ".join(path.read_text("utf-8").split())
        for path in (ROOT / "tflite_export" / "targets").glob("*.toml")
    }
    rows = re.findall(r"^\| (?!message)(.+?) \|", (ROOT / "docs" / "messages.md").read_text(), re.M)
    assert len(rows) > 25
    for row in rows:
        for words in row.split("…"):
            assert any(words.strip() in each for each in said), words


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, page
