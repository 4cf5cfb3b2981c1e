"""Where a channel's secret comes from: a variable of the server's environment, or a file that its owner alone reads."""

from __future__ import annotations

import os
import stat

from paddock.model.errors import Refused
from paddock.model.notify import Channel

SECRET_BYTES_MAX = 4096


def read_secret(channel: Channel) -> str:
    """The secret, or empty when the channel names none. Refused when it is named and cannot be had."""
    if channel.secret_env:
        secret = os.environ.get(channel.secret_env, "").strip()
        if not secret:
            raise Refused(f"the variable {channel.secret_env} is not set where the server runs: set it, and start anew")
        return _checked(secret, channel.secret_env)
    if channel.secret_file:
        return _checked(_read(channel.secret_file), channel.secret_file)
    return ""


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise Refused(f"the secret in {path} cannot be read: it is no file")
            if mode & 0o077:
                raise Refused(f"{path} can be read by others than its owner: chmod 600 it")
            data = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(f"the secret in {path} cannot be read: {error.strerror}") from error
    secret = data.decode("utf-8", "replace").strip() if len(data) <= SECRET_BYTES_MAX else ""
    if not secret:
        raise Refused(f"{path} is empty, or longer than a secret: write the secret into it, and nothing else")
    return secret


def _checked(secret: str, name: str) -> str:
    if not secret.isprintable() or len(secret) > SECRET_BYTES_MAX:
        raise Refused(f"what {name} holds is no secret: it has several lines, or is too long")
    return secret
