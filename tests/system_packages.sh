#!/bin/sh
# Installs Debian's packages that some tests use. Where it may not, those tests are skipped, and it says which.
set -eu

missing=""
command -v promtool >/dev/null || missing="$missing prometheus"
command -v chromium >/dev/null || missing="$missing chromium"
command -v chromedriver >/dev/null || missing="$missing chromium-driver"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "make test: installing$missing for the tests that use them" >&2
    # shellcheck disable=SC2086 # several words
    if apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
fi
echo "make test: tests that use$missing are skipped; install them to run these too" >&2
