# Sourced by the other scripts: makes .venv once, from the pinned requirements, and again only when those have changed.
# Usage: . scripts/setup.sh; setup base|dev
# base: what users get. dev: everything that tests and checks need.

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    echo "Interlock needs Python 3.11 or newer with venv; set PYTHON to one." >&2
    exit 2
}

setup() {
    wanted=$1
    root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
    cd "$root" || exit 2
    mark=$(cat "requirements/$wanted.txt" requirements/build.txt pyproject.toml src/interlock/_version.py | cksum)
    for done_mark in .venv/interlock-dev .venv/interlock-base; do
        # an environment with everything also serves those who need less
        [ "$wanted" = dev ] && [ "$done_mark" = .venv/interlock-base ] && continue
        kind=${done_mark##*-}
        current=$(cat "requirements/$kind.txt" requirements/build.txt pyproject.toml src/interlock/_version.py | cksum)
        if [ -f "$done_mark" ] && [ "$(cat "$done_mark")" = "$current" ]; then
            return
        fi
    done
    python=$(find_python)
    echo "Setting up .venv ($wanted) ..." >&2
    [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv || exit 2
    install="$root/.venv/bin/python -m pip install -qq --disable-pip-version-check --no-warn-script-location"
    $install --require-hashes -r requirements/build.txt || exit 2
    $install --require-hashes -r "requirements/$wanted.txt" || exit 2
    $install --no-deps --no-build-isolation -e . || exit 2
    printf '%s' "$mark" >".venv/interlock-$wanted"
}
