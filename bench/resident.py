"""How much memory this process holds and has held at most, in bytes."""

import contextlib
import pathlib
import re
import sys

_STATUS = pathlib.Path("/proc/self/status")


def now() -> int:
    return _status("VmRSS") if _STATUS.exists() else peak()


def peak() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Let the peak begin anew from what is held now, where Linux allows it: imports may have had a higher one."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.M)
    if found is None:
        raise OSError(f"{_STATUS} has no {key}")
    return int(found.group(1)) * 1024
