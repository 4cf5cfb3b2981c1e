"""The output of an agent on a disk that takes no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TEXT = """
import json, resource, sys
from pathlib import Path
from paddock.agent import lossy
lossy.install()
print("kept")
resource.setrlimit(resource.RLIMIT_FSIZE, (5, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
print("lost")
print("lost", file=sys.stderr)
sys.stdout.buffer.write(b"lost\\nlost\\n")
sys.stdout.flush()
lost = lossy.lost()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
print(json.dumps([lost, sys.stdout.fileno(), sys.stderr.fileno()]))
"""


def test_what_the_disk_does_not_take_is_counted_and_not_raised(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab") as log:
        subprocess.run([sys.executable, "-c", TEXT], stdout=log, stderr=log, check=True)
    kept, told = path.read_text().splitlines()
    assert kept == "kept"
    assert json.loads(told) == [4, 1, 2]
