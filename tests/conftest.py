"""`pytest --rewrite-golden` writes the golden texts anew; look at their diff before you keep them."""

import os
import pathlib
import signal
import time

import pytest
import soak

if "PYTEST_XDIST_WORKER" in os.environ and not soak.SOAKING:
    # Several workers share the cores: idle threads of one would keep those of the others from working.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

BEGUN = time.monotonic()
FOLDER = pathlib.Path(__file__).parent / "golden"


def pytest_configure(config):
    """Shells start what goes on in the background with Ctrl-C ignored, and a Solver then ignores it as well; the tests
    send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--rewrite-golden", action="store_true", help="write tests/golden/*.txt anew instead of comparing")


@pytest.fixture
def golden(request):
    """golden(name, text) holds a text to tests/golden/<name>.txt."""

    def check(name, text):
        path, found = FOLDER / f"{name}.txt", text.rstrip("\n") + "\n"
        if request.config.getoption("--rewrite-golden"):
            FOLDER.mkdir(exist_ok=True)
            path.write_text(found, encoding="utf-8")
        assert path.is_file(), f"{path} is missing; write it with pytest --rewrite-golden"
        assert found == path.read_text(encoding="utf-8"), f"{path} differs; see pytest --rewrite-golden"

    return check


def pytest_terminal_summary(terminalreporter):
    soak.tell("tests that passed", len(terminalreporter.stats.get("passed", ())))
    soak.tell("tests that passed: minutes", round((time.monotonic() - BEGUN) / 60, 1))
