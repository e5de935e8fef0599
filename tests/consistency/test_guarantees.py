"""docs/guarantees.md names a test for every sentence, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = re.compile(r"`((?:tests|src)/[\w/]+\.py)::(\w+)`")


def guarantees() -> list[str]:
    """The items of the lists, up to where the page says what is not guaranteed."""
    text = (ROOT / "docs" / "guarantees.md").read_text().partition("## What is not guaranteed")[0]
    return [" ".join(item.split()) for item in re.findall(r"^- (.*?)(?=^- |^#|^\S|\Z)", text, re.MULTILINE | re.DOTALL)]


def functions(path: Path) -> set[str]:
    found = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("guarantee", guarantees(), ids=lambda guarantee: guarantee[:60])
def test_every_guarantee_names_tests_that_exist(guarantee: str) -> None:
    named = REFERENCE.findall(guarantee)
    assert named, "no test is named"
    for file, name in named:
        assert (ROOT / file).is_file(), f"{file} does not exist"
        assert name in functions(ROOT / file), f"{file} has no {name}"


def test_the_page_is_read_whole() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = [reference for guarantee in guarantees() for reference in REFERENCE.findall(guarantee)]
    assert len(named) == len(REFERENCE.findall(text)) > 40
