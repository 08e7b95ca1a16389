"""The OMS's own sender library, dj-whisperer, with the least Django it runs on: a database in memory.

What it asks of its task queue is kept, so that a test can see it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import responses
from flask import Flask
from requests import PreparedRequest

from service.delivery import EVENT_TYPES
from tests.contract import stand_ins

HOST = "https://autoship.example"
URL = HOST + "/webhooks/oms/packages"


class Again(Exception):
    """What Celery raises to end a task that is to run again."""


@dataclass
class Task:
    """The running task as the library sees it: `countdowns` are the retries it asked for, in seconds."""

    request: Any = field(default_factory=lambda: SimpleNamespace(retries=0, kwargs={}))
    countdowns: list[float] = field(default_factory=list)

    def retry(self, countdown: float) -> None:
        self.countdowns.append(countdown)
        self.request.retries += 1
        raise Again


@dataclass(frozen=True)
class Whisperer:
    """The library: `tasks` and `models` are its modules, untouched."""

    tasks: Any
    models: Any
    user: Any

    def hook(self, target_url: str = URL, event_type: str = "package.status.packed", **settings: Any) -> Any:
        """A subscription, as its registration service makes it."""
        countdown = {"choice": "exponential", "kwargs": {"base": 2}}
        values = {"target_url": target_url, "event_type": event_type, "retry_countdown_config": countdown}
        return self.models.Webhook.objects.create(user=self.user, **values, **settings)

    def deliver(self, hook: Any, payload: dict[str, Any], task: Task | None = None) -> tuple[Any, Task]:
        """Runs the library's task for one event; the event it stored, and what it asked of the queue."""
        task = task or Task()
        with suppress(Again):
            self.tasks.deliver_event_task(
                task, hook.pk, hook.event_type, event_uuid=task.request.kwargs.get("event_uuid"), instance=payload
            )
        return self.models.WebhookEvent.objects.get(webhook=hook), task


@pytest.fixture(scope="session")
def library() -> Iterator[Whisperer]:
    """The library, its tables made and our event types registered."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.modules().items():
            patch.setitem(sys.modules, name, module)
        yield _set_up(patch)


def _set_up(patch: pytest.MonkeyPatch) -> Whisperer:
    import django
    from django.conf import settings
    from django.contrib.postgres import fields
    from django.db import connection

    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "whisperer"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    patch.setattr(fields, "ArrayField", stand_ins.array_field)
    django.setup()
    from django.contrib.auth.models import User
    from django.contrib.contenttypes.models import ContentType
    from whisperer import models, tasks
    from whisperer.events import WhispererEvent, registry

    with connection.schema_editor() as editor:
        for model in (ContentType, User, models.Webhook, models.WebhookEvent):
            editor.create_model(model)
    registry.register(*(type("Event", (WhispererEvent,), {"event_type": name}) for name in EVENT_TYPES))
    return Whisperer(tasks, models, User.objects.create(username="oms"))


@pytest.fixture
def whisperer(library: Whisperer) -> Iterator[Whisperer]:
    """The library with no subscription and no event."""
    yield library
    library.models.WebhookEvent.objects.all().delete()
    library.models.Webhook.objects.all().delete()


@pytest.fixture
def carried_to() -> Iterator[Callable[[Flask], None]]:
    """Carries what `requests` sends to our address into an application: the real headers, the raw bytes."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as net:

        def carry(app: Flask) -> None:
            client = app.test_client()

            def answer(request: PreparedRequest) -> tuple[int, dict[str, str], bytes]:
                body = request.body.encode() if isinstance(request.body, str) else request.body
                given = client.post(request.path_url, data=body, headers=list(request.headers.items()))
                return given.status_code, dict(given.headers), given.data

            for url in (URL, URL + "/"):
                net.add_callback(responses.POST, url, answer)

        yield carry
