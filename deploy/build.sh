#!/bin/sh
# Installs the pinned packages and Autoship itself into the Python that comes first in PATH.
set -eu
cd "$(dirname "$0")/.."
pip() { python -m pip --disable-pip-version-check install --quiet --root-user-action=ignore "$@"; }
pip --require-hashes -r requirements.txt -r deploy/requirements-build.txt
pip --no-deps --no-build-isolation .
