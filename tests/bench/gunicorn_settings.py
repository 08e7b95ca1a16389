"""The baselines' gunicorn has the settings of `deploy/gunicorn.conf.py`, without its hooks."""

import runpy
from pathlib import Path

_OURS = runpy.run_path(str(Path(__file__).parents[2] / "deploy/gunicorn.conf.py"))
globals().update({name: value for name, value in _OURS.items() if isinstance(value, str | int) and name[0] != "_"})
