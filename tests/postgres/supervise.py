"""A real PostgreSQL for the tests: supervise.py BIN BASE RUN (shared|own)

Starts a server of the programs in BIN on a free port of loopback, with all state in RUN, and stays its parent. As root it runs as
`postgres`, or `nobody` where there is no such user. The first one makes an empty cluster in BASE; all others are copies of it.

shared: ends, and the server with it, when nobody holds a shared lock of RUN/users any more; a lock ends with its process, also
one that was killed. RUN/ready holds the port, RUN/failed says why it does not start.
own: takes commands on standard input (`kill`, `start`, `freeze`, `thaw`), answers each with a line, and ends with its input.

Killed itself, it takes the server along: the kernel tells it.
"""

import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time

PASSWORD = "portcullis-test"
# Tests of one run come one after another, with pauses between them.
LINGER = 20
# A slow machine that compiles meanwhile.
PATIENCE = 120


def owner():
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise RuntimeError("there is neither a user postgres nor nobody")


def as_owner(who):
    def die_with_parent():
        # PR_SET_PDEATHSIG, after the user was changed, which would clear it.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)

    extra = {"preexec_fn": die_with_parent}
    if who is not None:
        extra.update(user=who.pw_uid, group=who.pw_gid, extra_groups=[])
    return extra


def give(path, who):
    if who is not None:
        subprocess.run(["chown", "-R", f"{who.pw_uid}:{who.pw_gid}", path], check=True)


def template(bin, base, who):
    """An empty cluster, made once."""
    home = os.path.join(base, "template")
    with open(os.path.join(base, "template.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(home):
            return home
        aside = os.path.join(base, "template.part")
        shutil.rmtree(aside, ignore_errors=True)
        os.mkdir(aside, 0o700)
        give(aside, who)
        secret = os.path.join(base, "password")
        with open(secret, "w") as file:
            file.write(PASSWORD)
        give(secret, who)
        made = subprocess.run(
            [os.path.join(bin, "initdb"), "-D", aside, "-U", "postgres", "--auth=scram-sha-256", "--pwfile", secret]
            + ["--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"],
            capture_output=True,
            text=True,
            cwd=base,
            **as_owner(who),
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb: {made.stdout}{made.stderr}")
        os.rename(aside, home)
        return home


class Server:
    def __init__(self, bin, base, run, own):
        self.bin, self.run, self.own, self.who = bin, run, own, owner()
        self.data = os.path.join(run, "data")
        shutil.copytree(template(bin, base, self.who), self.data, symlinks=True)
        os.chmod(self.data, 0o700)
        give(self.data, self.who)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.child = None

    def start(self):
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 400,
            "shared_buffers": "32MB",
            # Whoever kills a server wants to see what it kept; nobody here cuts the power.
            "fsync": "on" if self.own else "off",
            "logging_collector": "off",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(os.path.join(self.run, "log"), "ab") as log:
            self.child = subprocess.Popen(
                [os.path.join(self.bin, "postgres"), "-D", self.data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.run,
                start_new_session=True,
                **as_owner(self.who),
            )
        until = time.monotonic() + PATIENCE
        ask = [os.path.join(self.bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ask).returncode != 0:
            if self.child.poll() is not None:
                raise RuntimeError(f"postgres ended with {self.child.returncode}: {self.told()}")
            if time.monotonic() > until:
                raise RuntimeError(f"postgres does not start: {self.told()}")
            time.sleep(0.02)

    def told(self):
        with open(os.path.join(self.run, "log"), "rb") as log:
            return log.read()[-2000:].decode(errors="replace")

    def family(self):
        """The server and its processes."""
        children = f"/proc/{self.child.pid}/task/{self.child.pid}/children"
        with open(children) as file:
            return [self.child.pid, *map(int, file.read().split())]

    def signal(self, which):
        for pid in self.family():
            try:
                os.kill(pid, which)
            except ProcessLookupError:
                pass

    def kill(self):
        if self.child.poll() is None:
            self.signal(signal.SIGKILL)
            self.child.wait()


def unused(users):
    """Whether nobody holds the lock, for as long as it takes to be sure."""
    since = time.monotonic()
    while time.monotonic() - since < LINGER:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(users, fcntl.LOCK_UN)
        except BlockingIOError:
            return False
        time.sleep(0.2)
    return True


def shared(server, run):
    with open(os.path.join(run, "users")) as users:
        server.start()
        with open(os.path.join(run, "ready.part"), "w") as file:
            file.write(str(server.port))
        os.rename(os.path.join(run, "ready.part"), os.path.join(run, "ready"))
        while server.child.poll() is None and not unused(users):
            time.sleep(0.5)
        # Nobody may find it while it goes away.
        fcntl.flock(users, fcntl.LOCK_EX)
        os.unlink(os.path.join(run, "ready"))


def own(server):
    server.start()
    print(server.port, flush=True)
    for line in sys.stdin:
        match line.strip():
            case "kill":
                server.kill()
            case "start":
                server.start()
            case "freeze":
                server.signal(signal.SIGSTOP)
            case "thaw":
                server.signal(signal.SIGCONT)
        print("done", flush=True)


def main():
    bin, base, run, mode = sys.argv[1:]
    server = None
    try:
        server = Server(bin, base, run, mode == "own")
        if mode == "own":
            own(server)
        else:
            shared(server, run)
    except Exception as error:
        with open(os.path.join(run, "failed"), "w") as file:
            file.write(str(error))
        raise
    finally:
        if server is not None and server.child is not None:
            server.kill()
        if mode == "own":
            shutil.rmtree(run, ignore_errors=True)
        else:
            shutil.rmtree(os.path.join(run, "data"), ignore_errors=True)


main()
