"""Memory for data that comes from the kernel."""

from __future__ import annotations

import mmap


def pages(size: int) -> memoryview:
    """``size`` bytes (at least one) that begin at the beginning of a page.

    The kernel copies from its pages into those of a process. A bytearray begins 16 bytes behind
    the beginning of one, and copying into it took three times as long (docs/performance.md).
    """
    return memoryview(mmap.mmap(-1, max(size, 1)))[:size]
