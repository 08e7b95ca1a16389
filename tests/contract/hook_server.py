"""A real registration service: dj-whisperer's own views under Django's own server, with tokens of REST framework.

`python -m tests.contract.hook_server FILE TOKEN EVENT_TYPE…` keeps its SQLite database in FILE and prints its port.
A colleague has the token COLLEAGUE, and a superuser SUPERUSER.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from tests.contract import stand_ins

COLLEAGUE, SUPERUSER = "a-colleague", "a-superuser"


def serve(database: str, token: str, event_types: list[str]) -> None:
    """Listens on a free port of loopback until the process is ended."""
    sys.modules.update(stand_ins.modules())
    _configure(database)
    from django.contrib.auth.models import User
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application
    from rest_framework.authtoken.models import Token
    from whisperer.events import WhispererEvent, registry

    _create_tables(User, Token)
    registry.register(*(type("Event", (WhispererEvent,), {"event_type": name}) for name in event_types))
    for key in (token, COLLEAGUE, SUPERUSER):
        Token.objects.create(user=User.objects.create(username=key, is_superuser=key == SUPERUSER), key=key)
    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.set_app(get_wsgi_application())
    print(server.server_port, flush=True)
    server.serve_forever()


def _configure(database: str) -> None:
    import django
    from django.conf import settings
    from django.contrib.postgres import fields

    settings.configure(
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "rest_framework",
            "rest_framework.authtoken",
            "whisperer",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        ROOT_URLCONF=_urls(),
        ALLOWED_HOSTS=["127.0.0.1"],
        SECRET_KEY="made up",
        USE_TZ=True,
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            # Fewer on a page than there are, so that pages have to be followed.
            "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
            "PAGE_SIZE": 3,
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        },
    )
    # Only while the models are made: REST framework asks later what is one.
    arrays, fields.ArrayField = fields.ArrayField, stand_ins.array_field
    django.setup()
    fields.ArrayField = arrays


def _urls() -> str:
    """A module that mounts the library's urls where the OMS's documentation shows them."""
    module: Any = ModuleType("hook_server_urls")
    sys.modules[module.__name__] = module

    def patterns(name: str) -> Any:
        if name != "urlpatterns":
            raise AttributeError(name)
        from django.urls import include, path

        return [path("whisperer/", include("whisperer.urls"))]

    module.__getattr__ = patterns
    return str(module.__name__)


def _create_tables(user: Any, token: Any) -> None:
    from django.contrib.auth.models import Group, Permission
    from django.contrib.contenttypes.models import ContentType
    from django.db import connection
    from whisperer.models import EventQueue, Webhook, WebhookEvent

    with connection.schema_editor() as editor:
        for model in (ContentType, Permission, Group, user, token, Webhook, WebhookEvent, EventQueue):
            editor.create_model(model)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3:])
