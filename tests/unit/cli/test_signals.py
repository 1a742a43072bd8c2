"""Requests to end: by signal, by a closed terminal, and one that is to be ignored."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, time
for number in (signal.SIGHUP, signal.SIGINT):  # tests may run under nohup or in the background of a script
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from pathlib import Path
from vqscale.cli.signals import terminated_as_interrupted
try:
    with terminated_as_interrupted():
        Path(sys.argv[1]).touch()
        for _ in range(1000):
            time.sleep(0.01)
    code = 0
except KeyboardInterrupt:
    print("Stopping ...", flush=True)
    code = 130
sys.exit(code)
"""


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert file.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_is_an_interrupt(number: int, tmp_path: Path) -> None:
    started = tmp_path / "started"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(started)], stdout=subprocess.PIPE, text=True)
    wait_for(started)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "Stopping ...\n")


def test_closed_terminal_is_an_interrupt_and_nothing_is_printed_to_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, str(started)])
    wait_for(started)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130


def test_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    started = tmp_path / "started"
    program = PROGRAM.replace("signal.SIG_DFL", "signal.SIG_IGN").replace("1000", "20")
    process = subprocess.Popen([sys.executable, "-c", program, str(started)])
    wait_for(started)
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0


PRINTING = """
import os, signal, sys
import rich.console
signal.signal(signal.SIGINT, signal.default_int_handler)
from vqscale.cli.main import main
real = rich.console.Console.print
def printed(self, *arguments, **options):
    real(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGINT)
rich.console.Console.print = printed
sys.argv = ["vqscale", "fit", sys.argv[1]]
main()
"""


def test_ctrl_c_while_a_table_is_printed_ends_without_a_traceback(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("N,D,loss\n" + "".join(f"{n}e6,{20 * n}e6,{4 - 0.1 * n}\n" for n in range(1, 7)))
    done = subprocess.run([sys.executable, "-c", PRINTING, str(table)], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr
