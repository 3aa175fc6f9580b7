"""One IPython kernel in one cage. It is asked over a Unix socket, so that it needs no network; of its answers only one is read:
whether a cell ended well, and if not, with which error. What a cell prints is never looked at, so it can neither forge nor spoil points.
"""

import contextlib
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import zmq
from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from tools.chapters import ENVIRONMENT

CAGE = Path(__file__).with_name("cage.py")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys")
SCRATCH_SIZE, TREE = 500 * 2**20, 32  # bytes and processes, at which the watchdog ends a notebook
START = 120  # seconds for a kernel to start, on a machine that is busy
LARGEST_ANSWER = 2**24  # bytes of one message from a kernel
LIVING, STOPPED = set(), threading.Event()  # the kernels of this batch; whether it was interrupted


@dataclass(frozen=True)
class Limits:
    """cell, notebook: seconds. memory: bytes."""
    cell: float = 30
    notebook: float = 180
    memory: int = 3 * 2**30


@dataclass(frozen=True)
class Outcome:
    """How a cell ended. status: ok, error, timeout (interrupted, the kernel lives) or dead. error, message: as Python says them."""
    status: str
    error: str = ""
    message: str = ""


def layers():
    """What cages this system has. It is found out once for each batch, and from then on SIGTERM ends a batch as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = subprocess.run([sys.executable, CAGE, "probe"], capture_output=True, text=True)
    return json.loads(found.stdout) if found.returncode == 0 else []


def described(layers):
    """What the cage keeps out, in one line for the summary."""
    if sys.platform != "linux" or not layers:
        return "limits on time and memory; NOT kept from the network and from other files: this system has no namespaces and no Landlock"
    if layers == ["landlock"]:
        return "limits on time and memory, no reading or writing of other files, no TCP; other protocols and Unix sockets are NOT blocked: user namespaces are off"
    return "limits on time and memory, no network, no other files"


class Kernel:
    """A kernel with a scratch folder of its own, to be used with `with`."""

    why = ""  # we ended it

    def __init__(self, limits, layers, hide=()):
        if STOPPED.is_set():
            raise RuntimeError("interrupted")
        self.limits, self.deadline, self.known = limits, time.monotonic() + START + limits.notebook, set()
        self.scratch = Path(tempfile.mkdtemp(prefix="grade-")).resolve()
        LIVING.add(self)
        try:
            self._start(layers, hide)
        except BaseException:
            self.close()
            raise

    def _start(self, layers, hide):
        for name in (".kernel", "home", "tmp"):
            (self.scratch / name).mkdir()
        transport = "ipc" if os.name == "posix" else "tcp"  # Windows has no Unix sockets here
        place = {"ip": str(self.scratch / ".kernel" / "s")} if transport == "ipc" else {}
        connection, _ = write_connection_file(str(self.scratch / ".kernel" / "c.json"), transport=transport, **place)
        cage = {"scratch": str(self.scratch), "read": readable(), "hide": covered(hide), "layers": layers,
                "memory": self.limits.memory, "seconds": int(START + self.limits.notebook)}
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", ".kernel/c.json", "--log-level=CRITICAL", "--HistoryManager.enabled=False"]
        caged = [sys.executable, str(CAGE)] if os.name == "posix" else []  # no path in it: others can read it in /proc
        self.errors = open(self.scratch / ".kernel" / "errors", "wb")
        self.process = subprocess.Popen([*caged, *command], cwd=self.scratch, env=environment(self.scratch), start_new_session=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.errors)
        with contextlib.suppress(BrokenPipeError), self.process.stdin as file:
            file.write(json.dumps(cage).encode() if caged else b"")
        self.client = BlockingKernelClient(connection_file=connection)
        self.client.load_connection_file()
        self.client.context.setsockopt(zmq.MAXMSGSIZE, LARGEST_ANSWER)  # zmq closes the connection at a larger one
        self.client.start_channels(shell=True, iopub=False, stdin=False, hb=False, control=True)
        self.closed = self.client.shell_channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        if self._reply(self.client.kernel_info(), "kernel_info_reply", START) in (None, "late"):
            raise RuntimeError(f"the kernel did not start: {self._last_words()}")
        self.start_clock()

    def start_clock(self):
        """The time of the notebook counts from here."""
        self.deadline = time.monotonic() + self.limits.notebook

    def run(self, code, seconds=None):
        """Execute a cell and say how it ended."""
        if self.process.poll() is not None:
            return Outcome("dead", message=self._death())
        seconds = seconds or self.limits.cell
        asked = self.client.execute(code, silent=False, store_history=False, allow_stdin=False, stop_on_error=False)
        reply = self._reply(asked, "execute_reply", min(seconds, self.deadline - time.monotonic()))
        if reply == "late":
            return self._interrupt(asked, seconds)
        if reply is None:
            return Outcome("dead", message=self._death())
        return Outcome("ok") if reply.get("status") == "ok" else \
            Outcome("error", str(reply.get("ename", "an error")), str(reply.get("evalue", "")))

    def _interrupt(self, asked, seconds):
        """Ask a cell to stop; if it does not, end the kernel."""
        self.client.control_channel.send(self.client.session.msg("interrupt_request"))
        if self._reply(asked, "execute_reply", 5) in (None, "late"):
            self._kill(f"a cell ran longer than {seconds:g} seconds and could not be interrupted")
            return Outcome("dead", message=self._death())
        if time.monotonic() > self.deadline:
            self._kill(f"the notebook ran longer than {self.limits.notebook:g} seconds")
        return Outcome("timeout", message=f"stopped after {seconds:g} seconds")

    def _reply(self, asked, kind, seconds):
        """The content of the reply to a request; None if the kernel died, "late" if it did not come in time."""
        until, look = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            try:
                message = self.client.shell_channel.get_msg(timeout=min(0.2, max(until - time.monotonic(), 0.01)))
                if message["parent_header"].get("msg_id") == asked and message["msg_type"] == kind:
                    return dict(message["content"])
            except queue.Empty:
                if self.process.poll() is not None or self._hung_up():
                    return None
                if time.monotonic() > look:
                    self._watch()
                    look = time.monotonic() + 0.4
            except Exception:  # a message that is not signed, or no message at all: the kernel is no longer what we started
                self._kill("it sent something that is no answer of a kernel")
                return None
        return "late"

    def _hung_up(self):
        """Did it close the connection, or zmq for it, and is not merely about to end?"""
        if not self.closed.poll(0):
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        if self.process.poll() is None:
            self._kill(f"its answer was larger than {LARGEST_ANSWER >> 20} MB, or it closed its connection")
        return True

    def _watch(self):
        """End the kernel if all its processes together are too large, too many, or fill the disk. The limits of one process
        are the cage's."""
        with contextlib.suppress(psutil.Error, OSError):
            root = psutil.Process(self.process.pid)
            tree = [root, *root.children(recursive=True)]
            self.known.update(tree)
            if STOPPED.is_set():
                self._kill("interrupted")
            elif len(tree) > TREE or sum(_size(process) for process in tree) > self.limits.memory * 1.25:
                self._kill(f"{too_large(self.limits)}, or started more than {TREE} processes")  # which comes first is chance
            elif sum(entry.lstat().st_size + 4096 for entry in self.scratch.rglob("*")) > SCRATCH_SIZE:
                self._kill(f"it wrote more than {SCRATCH_SIZE >> 20} MB")

    def _kill(self, why):
        self.why = why
        for process in [*self.known]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL) if os.name == "posix" else self.process.kill()
        self.process.wait(10)

    def _death(self):
        """Why the kernel is no longer there."""
        return self.why or "its kernel ended (it called exit, was killed or crashed)"

    def _last_words(self):
        lines = (self.scratch / ".kernel" / "errors").read_text("utf8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self):
        """End all that it started and remove the scratch folder."""
        LIVING.discard(self)
        if hasattr(self, "closed"):
            self.client.shell_channel.socket.disable_monitor()
            self.closed.close(0)
        if hasattr(self, "client"):
            self.client.stop_channels()
        if hasattr(self, "process"):
            self._watch()
            self._kill(self.why)
            self.errors.close()
        _unlock(self.scratch)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def end_all():
    """When a batch is interrupted: nothing starts after it, and each kernel is ended by the thread that waits for it."""
    STOPPED.set()


def too_large(limits):
    return f"it used more than {limits.memory / 2**30:g} GB of memory"


def readable():
    """The folders that a kernel must read: the system's, Python's, the package's. Not the repository, not the submissions."""
    return [*SYSTEM, sys.prefix, sys.base_prefix, package()]


def package():
    """The folder that lab is imported from: src/, or that of all installed packages."""
    return str(Path(importlib.util.find_spec("lab").origin).parent.parent)


def covered(folders):
    """The folders to lay an empty one over: not those that hold something that the kernel needs."""
    needed = [Path(path).resolve() for path in [*readable(), tempfile.gettempdir()]]
    folders = [Path(folder).resolve() for folder in folders]
    return [str(folder) for folder in folders if folder.is_dir() and not any(path.is_relative_to(folder) for path in needed)]


def environment(scratch):
    """What the kernel is told: nothing of the instructor's own settings, so no tokens either."""
    places = {"HOME": "home", "TMPDIR": "tmp", "IPYTHONDIR": "home", "MPLCONFIGDIR": "home", "JUPYTER_RUNTIME_DIR": ".kernel"}
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, **ENVIRONMENT, **{name: str(scratch / place) for name, place in places.items()}, "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": package(), "PYTHONDONTWRITEBYTECODE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def plain(text, most=300):
    """A message that is the same each time: one line, no colours, no addresses in memory, not too long."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", " ".join(text.split()))
    text = re.sub(r"\(\d+\.py, ", "(", text)  # IPython's name for a cell
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= most else text[:most] + " ..."


def _size(process):
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _unlock(folder):
    """A folder that was made unreadable would stay behind."""
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
