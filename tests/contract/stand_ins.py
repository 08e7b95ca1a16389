"""What dj-whisperer imports and these tests do without: Celery, django-redis, django-filter, PostgreSQL's arrays.

It needs the first two only to be called by them later, and the third to narrow lists, which are read whole here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


class _Celery:
    Task = object

    @staticmethod
    def task(**options: Any) -> Callable[[Any], Any]:
        return lambda function: function


class _FilterSet:
    pass


def modules() -> dict[str, ModuleType]:
    """The modules by their names, for `sys.modules`."""

    def ignored(**options: Any) -> None:
        return None

    filters = _module("django_filters.filters", CharFilter=ignored, BooleanFilter=ignored)
    return {
        "celery": _module("celery", current_app=_Celery()),
        "django_redis": _module("django_redis", get_redis_connection=None),
        "django_filters": _module("django_filters", FilterSet=_FilterSet, filters=filters),
    }


def array_field(_: object, **options: Any) -> Any:
    """A field that holds a list; SQLite has no arrays."""
    from django.core.serializers.json import DjangoJSONEncoder
    from django.db.models import JSONField

    return JSONField(encoder=DjangoJSONEncoder, **options)


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module
