"""What the code logs is declared, and named alike."""

from __future__ import annotations

import pytest

from tests.house.events import EVENTS, FIELDS


def test_every_event_that_is_emitted_is_declared_and_every_declared_one_is_emitted() -> None:
    assert set(FIELDS) == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_named_subject_dot_participle_and_explained_in_one_sentence(name: str) -> None:
    subject, _, what = name.partition(".")
    assert subject.isalpha()
    assert what.replace("_", "").isalpha()
    assert EVENTS[name].meaning.endswith(".")
