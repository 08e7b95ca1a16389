"""The list of sabotages fits the code as it is; whether tests notice them is for `make sabotage`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.sabotage import SABOTAGES, Sabotage, apply, copy_tree


def test_every_sabotage_can_be_carried_out(tmp_path: Path) -> None:
    for number, sabotage in enumerate(SABOTAGES):
        tree = tmp_path / str(number)
        copy_tree(tree)
        apply(sabotage, tree)


def test_a_sabotage_of_code_that_is_not_there_is_no_success(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    with pytest.raises(SystemExit, match="0 times"):
        apply(Sabotage("x", (("service/inbox.py", "no such line", ""),), ()), tmp_path)
