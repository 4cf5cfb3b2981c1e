"""Reading files that a person named: never more of them than can be meant, whatever they are."""

from __future__ import annotations

from pathlib import Path

from paddock.model.errors import Refused


def read_text(path: Path, *, bytes_max: int, large: str, wanted: str) -> str:
    """The text of a file in UTF-8; Refused when it cannot be read or is longer than `bytes_max`. `large` says what it
    then is (or is not), `wanted` what should be named instead. Of a pipe or a device no more is read either."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise Refused(f"{path} is larger than {bytes_max:,} bytes: {large}")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8 (byte {error.start}): {wanted}") from error
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {wanted}") from error
