"""A small real Kubernetes for the tests: supervise.py PROGRAMS RUN

Starts etcd and the API server of PROGRAMS (build.sh made it) on free ports of loopback, with all state in RUN, and stays their
parent. It ends, and they with it, when nobody holds a shared lock of RUN/users any more (a lock ends with its process, also one
that was killed) and RUN/keep is not there. Killed itself, it takes its children along: the kernel tells them.

RUN/ready is written when the API server is: where its kubeconfig is. Where RUN/want-pods appears, what runs pods is started as well
(pods.py), and RUN/pods is written once the node is ready, or RUN/no-pods that it can't be. RUN/failed says why something does not start, RUN/log holds
what everybody printed.
"""

import base64
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
import zlib

import pods

# Tests of one run come one after another, with compiling, listing and pauses between them.
LINGER = 20
# A slow machine that compiles meanwhile.
PATIENCE = 120


class Ended(RuntimeError):
    """A program ended that should run."""


class Cluster:
    def __init__(self, programs, run):
        self.programs, self.run = programs, run
        self.children = {}
        self.pods = None
        self.write = write
        self.token = secrets.token_hex(24)

    def path(self, *parts):
        return os.path.join(self.run, *parts)

    def start(self, name, *arguments):
        def die_with_parent():
            # PR_SET_PDEATHSIG. The parent has one thread, so its death is the process's.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            # What is ours alone is so by its folder; containers' roots are made with this.
            os.umask(0o022)

        with open(self.path("log"), "ab") as log:
            self.children[name] = subprocess.Popen(
                [os.path.join(self.programs, name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.run,
                preexec_fn=die_with_parent,
            )

    def check(self):
        for name, child in self.children.items():
            if child.poll() is not None:
                raise Ended(f"{name} ended with {child.returncode}")

    def run_pods(self):
        """Starts what runs pods, and waits for the node."""
        if os.geteuid() != 0:
            write(self.path("no-pods"), "pods need root")
            return
        # Of the folder's name, so that two checkouts hardly ever meet.
        number = 16 + zlib.crc32(self.run.encode()) % 200
        self.pods = pods.Pods(self, number)
        write(self.path("had-pods"), "")
        before = set(self.children)
        try:
            self.pods.down()
            self.sweep_after_me()
            self.pods.up()
            self.wait(self.url + "/api/v1/nodes/node", '"type":"Ready","status":"True"', '"type": "Ready",\n        "status": "True"')
            self.try_one()
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            # Not every machine lets root make containers. The control plane is whole, and others use it.
            for name in [name for name in self.children if name not in before]:
                child = self.children.pop(name)
                child.kill()
                child.wait()
            self.pods.down()
            self.pods = None
            write(self.path("no-pods"), str(error))
            return
        write(self.path("pods"), "")

    def try_one(self):
        """Whether a container runs: a node may be ready where the kernel then lets none be made."""
        container = {"name": "first", "image": pods.BUSYBOX, "imagePullPolicy": "Never", "command": ["/busybox", "true"]}
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "first"}, "spec": spec}
        self.wait(self.url + "/api/v1/namespaces/default/serviceaccounts/default")
        url = self.url + "/api/v1/namespaces/default/pods"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=json.dumps(pod).encode(), headers=headers, method="POST")
        context = ssl.create_default_context(cafile=self.path("pki", "ca.crt"))
        urllib.request.urlopen(request, timeout=10, context=context).close()
        self.wait(url + "/first", '"phase":"Succeeded"', '"phase": "Succeeded"')

    def sweep_after_me(self):
        """Containers have parents of their own, which outlive this process: another one waits for its end, however it comes."""
        end, mine = os.pipe()
        if os.fork() == 0:
            os.close(mine)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.read(end, 1)
            self.pods.down()
            os._exit(0)
        os.close(end)
        # Open until this process ends, and closed in its children.
        os.set_inheritable(mine, False)

    def stop(self):
        # The API server after what asks it, and etcd last.
        for child in reversed(self.children.values()):
            child.terminate()
        until = time.monotonic() + 10
        for child in self.children.values():
            try:
                child.wait(max(0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children.clear()
        # Also what one left that was killed.
        if os.path.exists(self.path("had-pods")):
            (self.pods or pods.Pods(self, 16 + zlib.crc32(self.run.encode()) % 200)).down()
            os.remove(self.path("had-pods"))
        self.pods = None

    def openssl(self, *arguments, text=None):
        subprocess.run(["openssl", *arguments], cwd=self.path("pki"), input=text, text=True, check=True, capture_output=True)

    def certificates(self):
        os.makedirs(self.path("pki"), exist_ok=True)
        self.openssl("genrsa", "-out", "accounts.key", "2048")
        new = ["req", "-newkey", "rsa:2048", "-nodes"]
        authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        self.openssl(*new, "-x509", "-days", "30", "-subj", "/CN=tests", *authority, "-keyout", "ca.key", "-out", "ca.crt")
        self.openssl(*new, "-subj", "/CN=kube-apiserver", "-keyout", "server.key", "-out", "server.csr")
        names = "subjectAltName=IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc\nextendedKeyUsage=serverAuth\n"
        with open(self.path("pki", "server.ext"), "w", encoding="ascii") as file:
            file.write(names)
        self.openssl(*new, "-subj", "/O=system:masters/CN=kube-apiserver-to-kubelet", "-keyout", "kubelet.key", "-out", "kubelet.csr")
        with open(self.path("pki", "client.ext"), "w", encoding="ascii") as file:
            file.write("extendedKeyUsage=clientAuth\n")
        sign = ["x509", "-req", "-days", "30", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
        self.openssl(*sign, "-in", "server.csr", "-extfile", "server.ext", "-out", "server.crt")
        self.openssl(*sign, "-in", "kubelet.csr", "-extfile", "client.ext", "-out", "kubelet.crt")
        with open(self.path("pki", "tokens.csv"), "w", encoding="ascii") as file:
            file.write(f'{self.token},admin,admin,"system:masters"\n')

    def etcd(self):
        client, peer = free_port(), free_port()
        self.etcd_url = f"http://127.0.0.1:{client}"
        shutil.rmtree(self.path("etcd"), ignore_errors=True)
        at = f"http://127.0.0.1:{peer}"
        self.start(
            "etcd", "--data-dir", self.path("etcd"), "--listen-client-urls", self.etcd_url,
            "--advertise-client-urls", self.etcd_url, "--listen-peer-urls", at, "--initial-advertise-peer-urls", at,
            "--initial-cluster", f"default={at}", "--log-level", "error", "--logger", "zap",
        )  # fmt: skip

    def api_server(self):
        port = free_port()
        self.url = f"https://127.0.0.1:{port}"
        pki = lambda name: self.path("pki", name)
        self.start(
            "kube-apiserver", "--etcd-servers", self.etcd_url, "--bind-address", "127.0.0.1", "--secure-port", str(port),
            "--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none", "--authorization-mode", "RBAC",
            "--tls-cert-file", pki("server.crt"), "--tls-private-key-file", pki("server.key"), "--cert-dir", self.path("pki"),
            "--token-auth-file", pki("tokens.csv"), "--service-account-key-file", pki("accounts.key"),
            "--service-account-signing-key-file", pki("accounts.key"), "--service-account-issuer", self.url,
            "--api-audiences", "https://kubernetes.default.svc,vault", "--service-cluster-ip-range", "10.96.0.0/16",
            "--kubelet-client-certificate", pki("kubelet.crt"), "--kubelet-client-key", pki("kubelet.key"),
            "--kubelet-preferred-address-types", "InternalIP",
            # So that a watch that ends, and a version that is too old, come within a test.
            "--min-request-timeout", "60", "--watch-cache=true", "--event-ttl", "10m", "--v", "0",
        )  # fmt: skip

    def wait(self, url, *words):
        """Until the URL is answered with 200, and with one of the words where there are some."""
        context = ssl.create_default_context(cafile=self.path("pki", "ca.crt")) if url.startswith("https") else None
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token}"})
        until = time.monotonic() + PATIENCE
        while True:
            self.check()
            try:
                with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                    text = answer.read().decode()
                    if answer.status == 200 and (not words or any(word in text for word in words)):
                        return
            except OSError:
                pass
            if time.monotonic() > until:
                raise Ended(f"{url} does not answer")
            time.sleep(0.1)

    def kubeconfig(self):
        with open(self.path("pki", "ca.crt"), "rb") as file:
            authority = base64.b64encode(file.read()).decode()
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin", "namespace": "default"}}],
        }  # fmt: skip
        # JSON is YAML.
        write(self.path("kubeconfig"), json.dumps(config, indent=1))
        return self.path("kubeconfig")

    def up(self):
        self.certificates()
        self.etcd()
        self.wait(self.etcd_url + "/health")
        self.api_server()
        self.wait(self.url + "/readyz")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def remove(paths):
    for path in paths:
        if os.path.exists(path):
            os.remove(path)


def write(path, text):
    with open(path + ".new", "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(text)
    os.replace(path + ".new", path)


def main():
    programs, run = sys.argv[1], sys.argv[2]
    os.umask(0o077)
    # Of the session of whoever started it, it would be killed with that.
    if os.fork():
        return
    os.setsid()
    # Nor may it hold the pipes of whoever started it, who would wait for their end.
    with open(os.path.join(run, "log"), "ab") as log, open(os.devnull, "rb") as nothing:
        for mine, theirs in [(nothing, 0), (log, 1), (log, 2)]:
            os.dup2(mine.fileno(), theirs)
    alone = open(os.path.join(run, "supervisor"), "a", encoding="ascii")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cluster = Cluster(programs, run)
    marks = [cluster.path(name) for name in ["ready", "pods", "no-pods", "want-pods"]]
    users = open(cluster.path("users"), "a", encoding="ascii")
    remove(marks)
    try:
        # Of one that was killed.
        cluster.stop()
        # A port that was free may be somebody else's by now.
        for attempt in range(3):
            try:
                cluster.up()
                break
            except Ended:
                cluster.stop()
                if attempt == 2:
                    raise
        write(cluster.path("ready"), json.dumps({"kubeconfig": cluster.kubeconfig(), "pid": os.getpid()}))
        wanted = time.monotonic()
        while True:
            cluster.check()
            if cluster.pods is None and not os.path.exists(cluster.path("no-pods")) and os.path.exists(cluster.path("want-pods")):
                cluster.run_pods()
            time.sleep(0.5)
            if os.path.exists(cluster.path("keep")):
                wanted = time.monotonic()
                continue
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wanted = time.monotonic()
                continue
            if time.monotonic() - wanted > LINGER:
                # The lock stays: who comes now waits for the end and starts another one.
                return
            fcntl.flock(users, fcntl.LOCK_UN)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        write(cluster.path("failed"), str(error))
    finally:
        remove(marks)
        cluster.stop()
        shutil.rmtree(cluster.path("etcd"), ignore_errors=True)


if __name__ == "__main__":
    main()
