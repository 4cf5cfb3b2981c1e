# Sourced by ./paddock and ./dev, which set $here. The way of every day is one comparison of two small files; all else
# is done by environment.py.

find_python() { # sets $python to a Python that Paddock runs on
    for python in "${PADDOCK_PYTHON:-}" python3 python3.13 python3.12 python3.11 python \
        "$HOME"/.pyenv/versions/3.1[123].*/bin/python /usr/local/bin/python3 /opt/python*/bin/python3; do
        [ -n "$python" ] || continue
        if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            return
        fi
    done
    printf '%s %s\n' "paddock: no Python 3.11, 3.12 or 3.13 was found: install one" \
        "(Debian and Ubuntu: 'apt install python3 python3-venv'), or name it in \$PADDOCK_PYTHON" >&2
    exit 1
}

environment() { # environment run|dev: .venv holds what that lock says
    if [ "$(cat "$here/.venv/.root" 2>/dev/null)" = "$here" ] &&
        cmp -s "$here/requirements.lock" "$here/.venv/.lock-run" &&
        { [ "$1" = run ] || cmp -s "$here/requirements-dev.lock" "$here/.venv/.lock-dev"; } &&
        [ -x "$here/.venv/bin/python" ]; then
        return
    fi
    find_python
    "$python" "$here/.ci/environment.py" "$1" || exit 1
}
