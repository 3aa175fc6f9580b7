"""Run a command in a cage: limits on memory and processor time, no network, no file but those that it needs.

    python cage.py '{"scratch": "/tmp/x", "read": ["/usr"], "hide": [], "memory": 2000000000, "seconds": 60, "layers": [...]}' python ...
    python cage.py probe        prints the layers that this system has

No container and no rights are needed. Linux has two layers that each work alone: namespaces (own network, own processes, every
mount read-only) and Landlock (an allow-list of folders). Elsewhere only the limits remain. Standard library only: this file is
executed by path, before anything else is imported.
"""

import ctypes
import json
import os
import signal
import struct
import sys

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, AT_RECURSIVE, RDONLY = 0x1000, 0x4000, 1 << 18, 0x8000, 1
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 444, 445, 446  # the same numbers on every processor
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
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
    """Own users, network, processes and mounts: nothing listens, no process of ours can be seen or killed, nothing can be written."""
    uid, gid, scratch = os.getuid(), os.getgid(), os.fsencode(cage["scratch"])
    _call(_libc().unshare, NEWUSER | NEWNS | NEWIPC | NEWPID | NEWNET)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid or 1000} {uid} 1")  # not root inside: the command loses the rights that we use here
    _write("/proc/self/gid_map", f"{gid or 1000} {gid} 1")
    _mount(None, b"/", None, MS_REC | MS_PRIVATE)
    for folder in cage["hide"]:
        _mount(b"none", os.fsencode(folder), b"tmpfs", 0)
    _mount(scratch, scratch, None, MS_BIND)
    _mount_setattr(b"/", AT_RECURSIVE, set=RDONLY)
    _mount_setattr(scratch, 0, clear=RDONLY)
    os.chdir(scratch)


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
    """Become the command, caged. With namespaces a first process of the cage stays in between: when it ends, all within end."""
    if "namespaces" in cage["layers"]:
        namespaces(cage)
        _die_with_parent()
        _in_between()
        _in_between()
    if "landlock" in cage["layers"]:
        landlock(cage)
    _die_with_parent()
    limits(cage)
    os.execvp(command[0], command)


def _in_between():
    """Fork. The parent waits for the child and ends as it ended; the child dies with the parent, and goes on."""
    child = os.fork()
    if child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ended = -1
        while ended != child:
            ended, status = os.wait()
        os._exit(os.waitstatus_to_exitcode(status) & 255)
    _die_with_parent()


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
            LAYERS[name]({"scratch": "/tmp", "read": ["/"], "hide": []})
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
    _call(_libc().mount, source, target, kind, ctypes.c_ulong(flags), None)


def _mount_setattr(path, flags, set=0, clear=0):
    attributes = struct.pack("QQQQ", set, clear, 0, 0)
    _call(_libc().syscall, MOUNT_SETATTR, -100, path, flags, attributes, len(attributes))


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        print(json.dumps(probe()))
    else:
        main(json.loads(sys.argv[1]), sys.argv[2:])
