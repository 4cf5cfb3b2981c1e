from __future__ import annotations

import os

from paddock.app.lossy import LossyLog


def test_a_line_that_the_disk_does_not_take_is_dropped_and_counted() -> None:
    with open("/dev/full", "w", buffering=1) as full:
        log = LossyLog(full)
        log.write("lost\n")
        log.write("lost too\n")
        assert log.dropped == 2
        fd = os.dup(full.fileno())
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
        log.write("seen\n")
        assert log.dropped == 0
        os.dup2(fd, full.fileno())
        os.close(fd)
