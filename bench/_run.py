"""`./dev bench [NAME]`: runs the files of this folder one after the other, then prints one table of all their rows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _bench import ROWS, run
from _table import show

HERE = Path(__file__).resolve().parent


def main() -> int:
    names = sys.argv[1:]
    files = [HERE / f"{name}.py" for name in names] or sorted(HERE.glob("[!_]*.py"))
    if missing := [file.stem for file in files if not file.exists()]:
        print(f"bench: there is no {', '.join(missing)} in {HERE.name}/", file=sys.stderr)
        return 2
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as folder:
        rows = Path(folder) / "rows"
        rows.touch()
        try:
            for file in files:
                print(f"\n── {file.relative_to(HERE.parent)}", flush=True)
                if one(file, rows) != 0:
                    failed.append(file.stem)
        except KeyboardInterrupt:
            failed.append("interrupted")
        show(rows)
    if failed:
        print(f"\nFailed: {' '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def one(file: Path, rows: Path) -> int:
    """The exit of one file; when we are told to end, it is told too, and awaited: it has processes to take down."""
    held = subprocess.Popen([sys.executable, str(file)], cwd=HERE.parent, env={**os.environ, ROWS: str(rows)})
    try:
        return held.wait()
    except BaseException:
        held.terminate()
        held.wait()
        raise


if __name__ == "__main__":
    run(main)
