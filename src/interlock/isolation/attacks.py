"""The escape suite as data: what a program could try, and what each profile must do about it.

Each attack is a piece of Python that prints `ESCAPED` if it succeeds. `T` holds the facts of the range
(`attack_range`): files, sockets and processes of this user that the attack must not reach. Each attack must succeed
natively on some machine, otherwise it would prove nothing; where it does not, its result is void.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Attack(NamedTuple):
    """One attack. `losses` are the profiles that cannot stop it; the documentation names them too."""

    name: str
    layer: str
    """The layer of isolation that should stop it, as named in a posture."""
    code: str
    losses: tuple[str, ...] = ()
    alone: bool = False
    """True if the attack needs a separate action; the others share one, each in its own process (`BATCH`).

    Such an attack targets the end of the tree, its limits, its supervisor, or what it inherits.
    """
    outlasts: bool = False
    """True if it checks what survives a time-out, which is the only way in which it ends."""


PRELUDE: Final = """
import ctypes, fcntl, json, mmap, os, resource, signal, socket, struct, sys, time
T = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
def sys_(x86, arm, *a):
    r = libc.syscall(ctypes.c_long(x86 if X86 else arm), *[ctypes.c_long(v) if isinstance(v, int) else v for v in a])
    if r < 0: raise OSError(ctypes.get_errno(), "refused")
    return r
def escaped(): print("ESCAPED", flush=True)
os.chdir(T["workspace"])
"""

BATCH: Final = """
import select
seconds, cases = json.loads(sys.argv[2])
for name, code in cases:
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(w, 1)
        os.close(r), os.close(w)
        try:
            exec(code, dict(globals()))
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.close(w)
    printed, ended, until = b"", False, time.monotonic() + seconds
    while not ended and (left := until - time.monotonic()) > 0 and select.select([r], [], [], left)[0]:
        data = os.read(r, 65536)
        printed, ended = printed + data, not data
    os.close(r)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(json.dumps([name, b"ESCAPED" in printed, not ended]), flush=True)
"""
"""Follows `PRELUDE`. argv[2] holds the time limit of an attack, and the name and code of each.

Each attack runs in its own process and prints a line of JSON: its name, whether it escaped, and whether it was late.
"""

NONS: Final = ("nons",)

ATTACKS: Final = (
    # -- files
    Attack("read another file", "fs", "if open(T['secret']).read() == 'secret': escaped()"),
    Attack("read by a path of many ..", "fs", "if open('../' * 30 + T['secret'][1:]).read(): escaped()"),
    Attack("read through a symbolic link", "fs", "os.symlink(T['secret'], 'l'); open('l').read() and escaped()"),
    Attack("read through a hard link", "fs", "os.link(T['secret'], 'h'); open('h').read() and escaped()"),
    Attack("read through /proc/self/root", "fs", "open('/proc/self/root' + T['secret']).read() and escaped()"),
    Attack(
        "read through another process's root",
        "fs",
        "open(f\"/proc/{T['victim']}/root{T['secret']}\").read(); escaped()",
    ),
    Attack(
        "read through another process's directory",
        "fs",
        "open(f\"/proc/{T['victim']}/cwd/\" + os.path.basename(T['secret'])).read(); escaped()",
    ),
    Attack("list another directory", "fs", "os.listdir(T['outside']); escaped()"),
    Attack("write another file", "fs", "open(T['outside'] + '/new', 'w').write('x'); escaped()"),
    Attack("overwrite another file", "fs", "open(T['mine'], 'r+').write('x'); escaped()"),
    Attack("truncate another file", "fs", "os.truncate(T['mine'], 0); escaped()"),
    Attack("cut another file by a descriptor that cannot write", "fs", "os.open(T['mine'], os.O_TRUNC | 3); escaped()"),
    Attack("remove another file", "fs", "os.unlink(T['spare']); escaped()"),
    Attack("make a directory elsewhere", "fs", "os.mkdir(T['outside'] + '/dir'); escaped()"),
    Attack("make a FIFO elsewhere", "fs", "os.mkfifo(T['outside'] + '/fifo'); escaped()"),
    Attack(
        "move a file out of the workspace",
        "fs",
        "open('m', 'w').write('x'); os.rename('m', T['outside'] + '/moved'); escaped()",
    ),
    Attack(
        "write through a directory that became a link",
        "fs",
        "os.symlink(T['outside'], 'd'); open('d/through', 'w').write('x'); escaped()",
    ),
    Attack("run a program that is elsewhere", "fs", "os.execv(T['program'], ['program'])"),
    Attack("change the mode of another file", "namespaces", "os.chmod(T['mine'], 0o640); escaped()", NONS),
    Attack("change the times of another file", "namespaces", "os.utime(T['mine']); escaped()", NONS),
    Attack("ask whether another file exists", "namespaces", "os.stat(T['secret']); escaped()", NONS),
    Attack("read the machine's /tmp", "fs", "open(T['temporary']).read() and escaped()"),
    Attack("read the machine's /dev/shm", "fs", "open(T['shared']).read() and escaped()"),
    Attack(
        "write what the loader reads",
        "namespaces",
        "open('interlock.toml', 'a').write('x'); escaped()",
        NONS,
    ),
    Attack(
        "replace what the loader reads",
        "namespaces",
        "open('t', 'w').write('x'); os.replace('t', 'interlock.toml'); escaped()",
        NONS,
    ),
    Attack(
        "replace a directory above what the loader reads",
        "namespaces",
        "os.rename('tools', 'gone'); os.makedirs('tools/deep'); open('tools/deep/mod.py', 'w'); escaped()",
        NONS,
    ),
    Attack("change a file in the machine's /tmp", "fs", "open(T['temporary'], 'r+').write('secret'); escaped()"),
    Attack("write into a tool chain", "fs", "open(T['chain'] + '/tool', 'a').write('x'); escaped()"),
    Attack("put a program into a tool chain", "fs", "open(T['chain'] + '/git', 'w').write('x'); escaped()"),
    Attack(
        "leave a program with the user's rights",
        "syscalls",
        "open('s', 'w'); os.chmod('s', 0o4755); os.stat('s').st_mode & 0o4000 and escaped()",
    ),
    Attack(
        "make a program with the group's rights",
        "syscalls",
        "os.umask(0); os.close(os.open('g', os.O_CREAT | os.O_WRONLY, 0o2755)); os.stat('g').st_mode & 0o2000 and escaped()",
    ),
    Attack(
        "make a program with the user's rights by openat2",
        "syscalls",
        "os.umask(0); h = struct.pack('QQQ', os.O_CREAT | os.O_WRONLY, 0o4755, 0)\n"
        "sys_(437, 437, -100, ctypes.c_char_p(b'o'), ctypes.c_char_p(h), 24); os.stat('o').st_mode & 0o4000 and escaped()",
    ),
    Attack("give another file an attribute", "syscalls", "os.setxattr(T['mine'], 'user.x', b'x'); escaped()"),
    Attack(
        "watch another directory",
        "namespaces",
        "f = libc.inotify_init1(0); libc.inotify_add_watch(f, T['outside'].encode(), 0x20) >= 0 and escaped()",
        NONS,
    ),
    Attack("see where another link leads", "namespaces", "os.readlink(T['link']); escaped()", NONS),
    # -- processes
    Attack("signal another process", "signals", "os.kill(T['victim'], signal.SIGCONT); escaped()"),
    Attack(
        "stop the supervisor",
        "signals",
        "p = os.getppid(); os.kill(p, signal.SIGSTOP); time.sleep(0.05)\n"
        "s = open(f'/proc/{p}/stat').read().rpartition(')')[2].split()[0]; os.kill(p, signal.SIGCONT)\n"
        "if s == 'T': escaped()",
        alone=True,
    ),
    Attack("read the memory of the supervisor", "fs", "open(f'/proc/{os.getppid()}/mem', 'rb'); escaped()", alone=True),
    Attack(
        "read another process's environment",
        "fs",
        "b'SECRET' in open(f\"/proc/{T['victim']}/environ\",'rb').read() and escaped()",
    ),
    Attack("list the machine's processes", "namespaces", "str(T['victim']) in os.listdir('/proc') and escaped()", NONS),
    Attack(
        "read another process's arguments",
        "namespaces",
        "open(f\"/proc/{T['victim']}/cmdline\").read() and escaped()",
        NONS,
    ),
    Attack(
        "open another process's files", "fs", "open(f\"/proc/{T['victim']}/fd/{T['victim_fd']}\").read(); escaped()"
    ),
    Attack("trace another process", "syscalls", "sys_(101, 117, 0x4206, T['victim'], 0, 0); escaped()"),
    Attack(
        "read another process's memory",
        "syscalls",
        "b = ctypes.create_string_buffer(8); v = struct.pack('QQ', ctypes.addressof(b), 8)\n"
        "m = open(f\"/proc/{T['victim']}/maps\").readline(); a = int(m.split('-')[0], 16)\n"
        "sys_(310, 270, T['victim'], ctypes.c_char_p(v), 1, ctypes.c_char_p(struct.pack('QQ', a, 8)), 1, 0); escaped()",
    ),
    Attack(
        "take a descriptor of another process",
        "syscalls",
        "sys_(438, 438, os.pidfd_open(T['victim']), T['victim_fd'], 0); escaped()",
    ),
    Attack("slow another process down", "syscalls", "os.setpriority(os.PRIO_PROCESS, T['victim'], 19); escaped()"),
    Attack("move another process to one processor", "syscalls", "os.sched_setaffinity(T['victim'], {0}); escaped()"),
    Attack(
        "read another process's limits", "syscalls", "resource.prlimit(T['victim'], resource.RLIMIT_NOFILE); escaped()"
    ),
    Attack(
        "lower another process's limits",
        "syscalls",
        "resource.prlimit(T['victim'], resource.RLIMIT_CORE, (0, 0)); escaped()",
    ),
    Attack(
        "lower the supervisor's limits",
        "syscalls",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0)); escaped()",
        alone=True,
    ),
    Attack(
        "signal another process as the owner of a file",
        "signals",
        "r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, T['victim']); fcntl.fcntl(r, 10, signal.SIGSTOP)\n"
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC); os.write(w, b'x'); time.sleep(0.1)\n"
        "s = open(f\"/proc/{T['victim']}/stat\").read().rpartition(')')[2].split()[0]\n"
        "if s == 'T': os.kill(T['victim'], signal.SIGCONT); escaped()",
    ),
    Attack(
        "signal another process by a pidfd",
        "signals",
        "signal.pidfd_send_signal(os.pidfd_open(T['victim']), signal.SIGCONT); escaped()",
    ),
    Attack(
        "outlive the action",
        "tree",
        "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n"
        "  while True:\n   open('beat', 'a').write('.'); time.sleep(0.02)\n os._exit(0)\ntime.sleep(0.1)",
        alone=True,
    ),
    Attack(
        "outlive a time-out",
        "tree",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif os.fork() == 0:\n os.setsid()\n"
        " while True:\n  open('beat', 'a').write('.'); time.sleep(0.02)\ntime.sleep(60)",
        alone=True,
        outlasts=True,
    ),
    # -- kernel
    Attack("make a user namespace", "syscalls", "sys_(272, 97, 0x10000000); escaped()"),
    Attack(
        "make a user namespace by clone",
        "syscalls",
        "p = sys_(56, 220, 0x10000011, 0, 0, 0, 0)\nif p == 0: os._exit(0)\nos.waitpid(p, 0); escaped()",
    ),
    Attack(
        "make a user namespace by clone3",
        "syscalls",
        "a = struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0)\np = sys_(435, 435, ctypes.c_char_p(a), 64)\n"
        "if p == 0: os._exit(0)\nos.waitpid(p, 0); escaped()",
    ),
    Attack(
        "mount in a namespace of its own",
        "syscalls",
        "sys_(272, 97, 0x10020000); os.mkdir('mnt'); n = ctypes.c_char_p(b'tmpfs')\n"
        "sys_(165, 40, n, ctypes.c_char_p(b'mnt'), n, 0, 0); escaped()",
    ),
    Attack(
        "use the new mount calls",
        "syscalls",
        "sys_(272, 97, 0x10020000); sys_(430, 430, ctypes.c_char_p(b'tmpfs'), 1); escaped()",
    ),
    Attack(
        "add a key to the user's keyring",
        "syscalls",
        "sys_(248, 217, ctypes.c_char_p(b'user'), ctypes.c_char_p(b'interlock-attack'), ctypes.c_char_p(b'x'), 1, -2); escaped()",
    ),
    Attack("use io_uring", "syscalls", "sys_(425, 425, 4, ctypes.create_string_buffer(128)); escaped()"),
    Attack("use userfaultfd", "syscalls", "sys_(323, 282, 1 | os.O_CLOEXEC); escaped()"),
    Attack(
        "watch the machine's performance counters",
        "syscalls",
        "b = ctypes.create_string_buffer(struct.pack('IIQQQQQ', 1, 112, 0, 0, 0, 0, 0x60).ljust(112, b'\\0'), 112)\n"
        "sys_(298, 241, b, 0, -1, -1, 0); escaped()",
    ),
    Attack(
        "load a program into the kernel",
        "syscalls",
        "i = struct.pack('BBhi', 0xb7, 0, 0, 0) + struct.pack('BBhi', 0x95, 0, 0, 0); c = ctypes.create_string_buffer(i, 16)\n"
        "l = ctypes.create_string_buffer(b'GPL')\n"
        "a = struct.pack('IIQQ', 1, 2, ctypes.addressof(c), ctypes.addressof(l)).ljust(128, b'\\0')\n"
        "sys_(321, 280, 5, ctypes.c_char_p(a), 128); escaped()",
    ),
    Attack(
        "find a file's handle",
        "syscalls",
        "b = ctypes.create_string_buffer(struct.pack('Ii', 128, 0).ljust(136, b'\\0'), 136)\n"
        "m = ctypes.c_int(); sys_(303, 264, -100, ctypes.c_char_p(b'.'), b, ctypes.byref(m), 0); escaped()",
    ),
    Attack("make data executable", "syscalls", "sys_(135, 92, 0x400000); escaped()"),
    Attack(
        "call the kernel by int 0x80",
        "syscalls",
        "m = mmap.mmap(-1, 4096, prot=7); m.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "if X86 and f() == os.getpid(): escaped()",
    ),
    Attack("call the kernel by x32 numbers", "syscalls", "X86 and sys_(0x40000000 + 39, 0) > 0 and escaped()"),
    Attack(
        "type into a terminal",
        "syscalls",
        "import pty\np, t = pty.openpty()\nif os.fork() == 0:\n os.setsid(); fcntl.ioctl(t, 0x540E, 0)\n"
        " try: fcntl.ioctl(t, 0x5412, b'x'); escaped()\n except OSError: pass\n os._exit(0)\nos.wait()",
    ),
    Attack("gain privileges by a program", "no_new_privs", "if libc.prctl(39, 0, 0, 0, 0) == 0: escaped()"),
    # -- network and similar channels
    Attack(
        "connect to a server of the machine", "net", "socket.create_connection(('127.0.0.1', T['tcp']), 2); escaped()"
    ),
    Attack("connect by IPv6", "net", "socket.create_connection(('::1', T['tcp6']), 2); escaped()"),
    Attack(
        "send a datagram and get an answer",
        "net",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "s.sendto(b'x', ('127.0.0.1', T['udp'])); s.recv(9) and escaped()",
    ),
    Attack(
        "connect by MPTCP",
        "net",
        "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.settimeout(2)\n"
        "s.connect(('127.0.0.1', T['tcp'])); escaped()",
    ),
    Attack(
        "connect by TCP fast open",
        "net",
        "s = socket.socket(); s.sendto(b'x', 0x20000000, ('127.0.0.1', T['tcp'])); escaped()",
    ),
    Attack(
        "connect to an abstract socket",
        "net",
        "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + T['abstract']); escaped()",
    ),
    Attack(
        "send to an abstract socket",
        "net",
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(b'x', '\\0' + T['abstract'] + '-d'); escaped()",
    ),
    Attack(
        "connect to a socket of the machine",
        "net",
        "s = socket.socket(socket.AF_UNIX); s.connect(T['unix']); escaped()",
    ),
    Attack("make a socket to the hypervisor", "net", "socket.socket(40, socket.SOCK_STREAM); escaped()"),
    Attack("make a socket of the kernel's ciphers", "net", "socket.socket(38, socket.SOCK_SEQPACKET); escaped()"),
    Attack("hear the kernel's events", "net", "socket.socket(16, socket.SOCK_DGRAM, 15); escaped()"),
    Attack("use shared memory of another process", "syscalls", "libc.shmget(T['shm'], 0, 0) >= 0 and escaped()"),
    Attack(
        "open a message queue of another process",
        "syscalls",
        "sys_(240, 180, ctypes.c_char_p(T['queue'].encode()), os.O_RDWR, 0, 0); escaped()",
    ),
    Attack(
        "write to a terminal of the user",
        "fs",
        "os.write(os.open(T['terminal'], os.O_WRONLY | os.O_NOCTTY), b'approve? '); escaped()",
    ),
    Attack("read from a terminal of the user", "fs", "os.open(T['terminal'], os.O_RDONLY | os.O_NOCTTY); escaped()"),
    Attack(
        "connect to a socket of another program in the workspace",
        "namespaces",
        "s = socket.socket(socket.AF_UNIX); s.connect('server.sock'); escaped()",
    ),
    # -- beside what Landlock covers
    Attack(
        "hold up others by a lease on a file",
        "syscalls",
        "f = os.open(T['chain'] + '/tool', os.O_RDONLY); fcntl.fcntl(f, 1024, 1); escaped()",
    ),
    Attack(
        "change the flags of a file that may be read",
        "syscalls",
        "f = os.open(T['chain'] + '/tool', os.O_RDONLY); b = bytearray(8); fcntl.ioctl(f, 0x80086601, b)\n"
        "b[0] |= 0x80; fcntl.ioctl(f, 0x40086602, bytes(b)); escaped()",
    ),
    Attack(
        "give a file that may be read a project",
        "syscalls",
        "f = os.open(T['chain'] + '/tool', os.O_RDONLY); b = bytearray(28); fcntl.ioctl(f, 0x801c581f, b)\n"
        "b[0] |= 0x80; fcntl.ioctl(f, 0x401c5820, bytes(b)); escaped()",
    ),
    Attack(
        "give a file that may be read an attribute by its descriptor",
        "syscalls",
        "f = os.open(T['chain'] + '/tool', os.O_RDONLY); os.setxattr(f, 'user.x', b'x'); escaped()",
    ),
    Attack(
        "watch another directory for a signal",
        "fs",
        "f = os.open(T['outside'], os.O_RDONLY); fcntl.fcntl(f, 1026, 4); escaped()",
    ),
    Attack(
        "use a message queue of another process by its key", "syscalls", "libc.msgget(T['shm'], 0) >= 0 and escaped()"
    ),
    Attack("use semaphores of another process", "syscalls", "libc.semget(T['shm'], 0, 0) >= 0 and escaped()"),
    Attack(
        "signal another process with a value",
        "signals",
        "i = ctypes.create_string_buffer(struct.pack('iii', 18, 0, -1).ljust(128, b'\\0'), 128)\n"
        "sys_(129, 138, T['victim'], 18, i); escaped()",
    ),
    Attack("signal a thread of another process", "signals", "sys_(234, 131, T['victim'], T['victim'], 18); escaped()"),
    Attack(
        "read another process's list of locks",
        "syscalls",
        "h = ctypes.c_void_p(); n = ctypes.c_size_t(); sys_(274, 100, T['victim'], ctypes.byref(h), ctypes.byref(n)); escaped()",
    ),
    Attack(
        "change another process's I/O priority", "syscalls", "sys_(251, 30, 1, T['victim'], (2 << 13) | 7); escaped()"
    ),
    Attack(
        "change another process's policy",
        "syscalls",
        "os.sched_setscheduler(T['victim'], os.SCHED_BATCH, os.sched_param(0)); escaped()",
    ),
    Attack("see the user's keyrings", "syscalls", "sys_(250, 219, 0, -4, 0); escaped()"),
    Attack("list the user's keys", "namespaces", "open('/proc/keys').read() and escaped()", NONS),
    Attack(
        "see the machine's connections",
        "namespaces",
        "f':{T[\"tcp\"]:04X} ' in open('/proc/net/tcp').read() and escaped()",
        NONS,
    ),
    Attack(
        "see the machine's sockets", "namespaces", "T['abstract'] in open('/proc/net/unix').read() and escaped()", NONS
    ),
    Attack(
        "ask the kernel for the machine's sockets",
        "net",
        "socket.socket(16, socket.SOCK_DGRAM, 4).bind((0, 0)); escaped()",
    ),
    Attack(
        "see the machine's mounts",
        "namespaces",
        "any(l.split()[4] == '/' and 'tmpfs' not in l for l in open('/proc/self/mountinfo')) and escaped()",
        NONS,
    ),
    Attack("hear of all files by fanotify", "syscalls", "f = sys_(300, 262, 0x200, 0); escaped()"),
    Attack(
        "send a datagram through a pair",
        "net",
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b'x', '\\0' + T['abstract'] + '-d'); escaped()",
    ),
    Attack(
        "open the namespaces of another process",
        "fs",
        "os.open(f\"/proc/{T['victim']}/ns/net\", os.O_RDONLY); escaped()",
    ),
    Attack(
        "write another process's oom score",
        "fs",
        "open(f\"/proc/{T['victim']}/oom_score_adj\", 'w').write('1000'); escaped()",
    ),
    Attack("read another process's maps", "fs", "open(f\"/proc/{T['victim']}/maps\").read() and escaped()"),
    Attack("read another process's io", "fs", "open(f\"/proc/{T['victim']}/io\").read() and escaped()"),
    Attack("see what another process waits in", "fs", "open(f\"/proc/{T['victim']}/syscall\").read(); escaped()"),
    Attack(
        "have the kernel open another file through a script",
        "fs",
        "open('s', 'w').write('#!' + T['outside'] + '/program\\n'); os.chmod('s', 0o755); os.execv('./s', ['s'])",
    ),
    Attack(
        "rename by exchange",
        "fs",
        "open('x', 'w').write('x')\nif libc.renameat2(-100, b'x', -100, (T['outside'] + '/mine').encode(), 2) == 0: escaped()",
    ),
    Attack("read the machine's name", "namespaces", "os.uname().nodename != 'box' and escaped()", NONS),
    # -- inherited state, and limits
    Attack("read an inherited descriptor", "descriptors", "os.pread(T['inherited'], 9, 0) and escaped()", alone=True),
    Attack("read Interlock's environment", "environment", "'INTERLOCK_ATTACK_SECRET' in os.environ and escaped()"),
    Attack(
        "start more processes than allowed",
        "limits",
        "n = 0\nfor _ in range(200):\n if os.fork() == 0:\n  time.sleep(30); os._exit(0)\n n += 1\n"
        "time.sleep(3); n == 200 and escaped(); os.killpg(0, 9)",
        alone=True,
    ),
    Attack(
        "use more memory than allowed in several processes",
        "limits",
        "r, w = os.pipe()\nfor _ in range(3):\n if os.fork() == 0:\n"
        "  b = bytearray(b'x') * (120 << 20); os.write(w, b'x'); time.sleep(30); os._exit(0)\n"
        "os.close(w)\nfor _ in range(3): os.read(r, 1) or os._exit(1)\ntime.sleep(2); escaped(); os.killpg(0, 9)",
        alone=True,
    ),
    Attack(
        "use more memory than allowed in files of memory",
        "limits",
        "f = os.memfd_create('m')\nfor _ in range(400): os.write(f, bytes(1 << 20))\ntime.sleep(2); escaped()",
        alone=True,
    ),
    Attack("use more memory than allowed", "limits", "b = bytearray(300 << 20); b[-1] = 1; escaped()", alone=True),
    Attack(
        "write a larger file than allowed",
        "limits",
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nwith open('big', 'wb') as f: f.truncate(80 << 20)\nescaped()",
        alone=True,
    ),
    Attack(
        "open more files than allowed",
        "limits",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000)); escaped()",
        alone=True,
    ),
)
"""At least forty attacks; a test counts them."""
