"""`task submit … --each PATH`: one task for each Python file, many at a time, with progress and a summary."""

from __future__ import annotations

import io
import time
import tokenize
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from paddock.cli import show
from paddock.cli.client import WAIT_S, Api, path_of
from paddock.cli.ready import progress
from paddock.cli.task import ENDED, FILE_BYTES_MAX, TaskNotDone, why_not
from paddock.model.errors import PaddockError, QueueFull, Refused

AT_ONCE = 16
FILES_MAX = 20_000


def submit_each(api: Api, request: dict[str, Any], paths: list[Path], *, wait_s: float, form: show.Form) -> None:
    """Run the task for every file and print what became of each; TaskNotDone unless all are done."""
    files = find(paths)
    end = time.monotonic() + wait_s
    views: dict[Path, dict[str, Any]] = {}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="each") as pool, progress("files done") as report:
        report(0, len(files))
        running = {pool.submit(_one, api, request, file, end): file for file in files}
        try:
            for future in as_completed(running):
                views[running[future]] = future.result()
                report(len(views), len(files))
        except BaseException:  # Ctrl-C, or the server is gone: what has not begun shall not
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _print([views[file] | {"path": str(file)} for file in files], form)


def _print(views: list[dict[str, Any]], form: show.Form) -> None:
    bad = [view for view in views if view["state"] != "done"]
    if form is not show.Form.TABLE:
        show.dump(views, form)
    else:
        columns = {
            "path": lambda v: v["path"],
            "state": lambda v: v["state"],
            "agent": lambda v: v.get("agent"),
            "result": lambda v: brief(v.get("result")) if v["state"] == "done" else why_not(v),
        }
        show.console().print(show.table(views, columns))
    states = ", ".join(f"{count} {state}" for state, count in Counter(view["state"] for view in views).items())
    show.say(f"{len(views)} files: {states}")
    if bad:
        raise TaskNotDone(f"{len(bad)} of {len(views)} tasks are not done; the first: {why_not(bad[0])}")


def brief(result: Any) -> str:
    """The numbers of a result, or the length of its lists: enough for one line."""
    if isinstance(result, dict):
        parts = []
        for key, value in result.items():
            if isinstance(value, list):
                parts.append(f"{len(value)} {key}")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                parts.append(f"{key} {value}")
        return ", ".join(parts)
    return str(result)[:60]


def find(paths: list[Path]) -> list[Path]:
    """The files: those named, and every *.py in the folders named, each once, in order."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.py") if file.is_file())
            if not found:
                raise Refused(f"no *.py file is in {path}: name a folder with Python files")
            files.update(dict.fromkeys(found))
        elif path.is_file():
            files[path] = None
        else:
            raise Refused(f"{path} is neither a file nor a folder: name what exists")
        if len(files) > FILES_MAX:
            raise Refused(f"more than {FILES_MAX} files: name fewer at a time")
    return list(files)


def source(path: Path) -> str:
    """The text of a Python file, by the encoding that it declares."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise Refused(f"{path} is larger than {FILE_BYTES_MAX // 1_000_000} MB, more than a task may carry")
    content = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return content.decode(encoding)


def _one(api: Api, request: dict[str, Any], path: Path, end: float) -> dict[str, Any]:
    """One file's task from submission to its end. What goes wrong with this file alone is its own result."""
    try:
        args = {**request["args"], "source": source(path), "path": str(path)}
    except (PaddockError, OSError, SyntaxError, UnicodeDecodeError) as error:
        return _failed("unreadable", str(error))
    body = {**request, "args": args}
    if request.get("key"):
        body["key"] = f"{request['key']}:{path}"
    while True:
        try:
            view = api.post("/api/v1/tasks", body)
            break
        except QueueFull as error:
            if time.monotonic() + error.retry_after_s > end:
                return _failed("queue-full", error.message)
            time.sleep(error.retry_after_s)
        except PaddockError as error:
            if error.code == "too-large" or error.status == 413:
                return _failed("too-large", error.message)
            raise
    while view["state"] not in ENDED and (left := end - time.monotonic()) > 0:
        view = api.get(path_of("tasks", view["id"]), wait_s=round(min(left, WAIT_S), 3))
    return dict(view)


def _failed(code: str, message: str) -> dict[str, Any]:
    return {"id": "-", "state": "failed", "error": {"code": code, "message": message}}
