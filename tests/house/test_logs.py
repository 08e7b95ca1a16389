"""Every event of the logs is emitted, and named alike."""

from __future__ import annotations

import pytest

from tests.house.events import EVENTS, FIELDS, made


def test_every_event_is_emitted_somewhere() -> None:
    assert set(FIELDS) == set(EVENTS)


def test_no_two_events_have_the_same_name() -> None:
    assert {id(event) for event in EVENTS.values()} == {id(event) for event in made()}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_named_subject_dot_participle_and_explained_in_one_sentence(name: str) -> None:
    subject, _, what = name.partition(".")
    assert subject.isalpha()
    assert what.replace("_", "").isalpha()
    assert EVENTS[name].meaning.endswith(".")
