"""Run a command in a cage: limits on memory and processor time, no network, no file but those that it needs.

    python cage.py python ...   reads from stdin: {"scratch": "/tmp/x", "read": ["/usr"], "hide": [], "memory": 2000000000, "seconds": 60, "layers": [...]}
    python cage.py probe        prints the layers that this system has

No container and no rights are needed. Linux has two layers that each work alone: namespaces (own network, own processes, a root
folder with only the listed folders in it) and Landlock (an allow-list of the same folders). Elsewhere only the limits remain.
Standard library only: this file is executed by path, before anything else is imported.
"""

import ctypes
import json
import os
import signal
import struct
import sys
import tempfile

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH, AT_RECURSIVE, RDONLY = 2, 4, 0x1000, 0x4000, 1 << 18, 2, 0x8000, 1
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 444, 445, 446  # the same numbers on every processor
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
READ, ON_FILES = 0b1101, 0b1100000000000111  # Landlock's bits: execute, read file, read folder; those that a single file can have
PROCESSES, LARGEST_FILE = 256, 256 * 2**20


def limits(cage):
    """What the kernel itself enforces for each process. A system without one of them still has the others and the watchdog."""
    import resource
    wanted = {"RLIMIT_DATA": cage["memory"], "RLIMIT_CPU": cage["seconds"], "RLIMIT_FSIZE": LARGEST_FILE, "RLIMIT_CORE": 0}
    if "namespaces" in cage["layers"]:  # elsewhere it would count all processes of this user
        wanted["RLIMIT_NPROC"] = PROCESSES
    for name, most in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (AttributeError, ValueError, OSError):
            pass


def namespaces(cage):
    """Own users, network, processes and files. Returns in a new process, the first of the cage: when it ends, all within end."""
    uid, gid = os.getuid(), os.getgid()
    _call(_libc().unshare, NEWUSER | NEWNS | NEWIPC | NEWPID | NEWNET)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid or 1000} {uid} 1")  # not root inside: the command loses the rights that we use here
    _write("/proc/self/gid_map", f"{gid or 1000} {gid} 1")
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _in_between()
    _own_root(cage, os.path.realpath(cage["scratch"]))


def _own_root(cage, scratch):
    """Build a root folder in memory: the folders to read, the links that lead to them, the scratch folder, and the processes of
    this cage. What is not in it has no name here, so no socket of another process can be connected to."""
    held = os.open(scratch, os.O_PATH)
    _mount("none", scratch, "tmpfs", MS_NOSUID | MS_NODEV)
    for path in [*cage["read"], *DEVICES]:
        if os.path.exists(path) and path != "/proc":
            _bind(os.path.realpath(path), scratch + os.path.realpath(path))
    for path in [*cage["read"], sys.executable]:
        for place, target in _links(path):
            os.makedirs(os.path.dirname(scratch + place), exist_ok=True)
            if not os.path.lexists(scratch + place):
                os.symlink(target, scratch + place)
    for folder in cage["hide"]:
        if os.path.isdir(scratch + folder):
            _mount("none", scratch + folder, "tmpfs", 0)
    _bind(f"/proc/self/fd/{held}", scratch + scratch, MS_BIND)  # the folder below the one in memory, so not with what lies on it
    _own_proc(scratch + "/proc")
    _mount_setattr(scratch, AT_RECURSIVE, set=RDONLY)
    _mount_setattr(scratch + scratch, 0, clear=RDONLY)
    os.chdir(scratch)
    _call(_libc().pivot_root, b".", b".")
    _call(_libc().umount2, b".", MNT_DETACH)
    os.chdir(scratch)


def _bind(source, target, flags=MS_BIND | MS_REC):
    """Show a file or folder at a second place. The place is made if need be."""
    os.makedirs(target if os.path.isdir(source) else os.path.dirname(target), exist_ok=True)
    if not os.path.exists(target):
        _write(target, "")
    _mount(source, target, None, flags)


def _own_proc(place):
    """/proc with the processes of this cage. Some containers forbid that; there the cage sees the names of the others."""
    os.mkdir(place)
    try:
        _mount("proc", place, "proc", MS_NOSUID | MS_NODEV)
    except OSError:
        _bind("/proc", place)


def _links(path):
    """The symbolic links on the way to a path, [(place, target)]."""
    parent, name = os.path.split(path.rstrip("/"))
    if not name:
        return []
    place = os.path.join(os.path.realpath(parent), name)
    if not os.path.islink(place):
        return _links(parent)
    target = os.readlink(place)
    return [*_links(parent), (place, target), *_links(os.path.join(os.path.dirname(place), target))]


def landlock(cage):
    """From here on only the listed folders can be read, only the scratch folder written, and no process outside signalled."""
    version = _call(_libc().syscall, LANDLOCK_CREATE, None, 0, 1)
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    _call(_libc().prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    rules = struct.pack("QQQ", every, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]  # files, TCP, sockets and signals
    ruleset = _call(_libc().syscall, LANDLOCK_CREATE, rules, len(rules), 0)
    for path, access in [*((path, READ) for path in cage["read"]), *((path, every) for path in DEVICES), (cage["scratch"], every)]:
        _allow(ruleset, path, access)
    _call(_libc().syscall, LANDLOCK_RESTRICT, ruleset, 0)


def _allow(ruleset, path, access):
    if os.path.exists(path):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", access if os.path.isdir(path) else access & ON_FILES, place)
        _call(_libc().syscall, LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(place)


LAYERS = {"namespaces": namespaces, "landlock": landlock}


def main(cage, command):
    """Become the command, caged. On Linux a process stays in between, which ends what the command leaves behind."""
    _die_with_parent()
    if "namespaces" in cage["layers"]:
        namespaces(cage)
    if sys.platform == "linux":
        _in_between()
    if "landlock" in cage["layers"]:
        landlock(cage)
    limits(cage)
    os.execvp(command[0], command)


def _in_between():
    """Fork. The parent waits for the child and ends as it ended; the child dies with the parent, and goes on."""
    _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a process that leaves its parent becomes a child of this one
    child = os.fork()
    if child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ended = -1
        while ended != child:
            ended, status = os.wait()
        if os.getpid() != 1:  # with the first process of a cage all others end anyway
            _end_children()
        os._exit(os.waitstatus_to_exitcode(status) & 255)
    _die_with_parent()


def _end_children():
    """Until none is left: those of a child that is ended become ours."""
    try:
        while True:
            for name in filter(str.isdigit, os.listdir("/proc")):
                _end_child(int(name))
            os.wait()
    except ChildProcessError:
        pass


def _end_child(process):
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
        if parent == os.getpid():
            os.kill(process, signal.SIGKILL)
    except OSError:
        pass


def _die_with_parent():
    """A batch that is killed leaves nothing behind."""
    if sys.platform == "linux":
        _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def probe():
    """The layers that work here, each tried in a process of its own."""
    return [name for name in LAYERS if sys.platform == "linux" and _works(name)]


def _works(name):
    child = os.fork()
    if not child:
        try:
            LAYERS[name]({"scratch": tempfile.gettempdir(), "read": ["/usr"], "hide": []})
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _libc():
    return ctypes.CDLL(None, use_errno=True)


def _call(function, *arguments):
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _mount(source, target, kind, flags):
    _call(_libc().mount, *(None if text is None else os.fsencode(text) for text in (source, target, kind)), ctypes.c_ulong(flags), None)


def _mount_setattr(path, flags, set=0, clear=0):
    attributes = struct.pack("QQQQ", set, clear, 0, 0)
    _call(_libc().syscall, MOUNT_SETATTR, -100, os.fsencode(path), flags, attributes, len(attributes))


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        print(json.dumps(probe()))
    else:
        main(json.load(sys.stdin), sys.argv[1:])
