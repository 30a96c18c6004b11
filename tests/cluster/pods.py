"""Pods for the small Kubernetes of supervise.py: controllers, scheduler, containerd and kubelet. Needs root.

One node, whose address is that of its own bridge, since a node may not be at loopback. Two images, each of one static program:
nothing is pulled. Debian 12's kernel, cgroup v1 or hybrid, without CAP_SYS_RESOURCE too. No services and no DNS yet.
"""

import io
import json
import os
import hashlib
import shutil
import subprocess
import tarfile
import time

PAUSE = "portcullis.test/pause:1"
BUSYBOX = "portcullis.test/busybox:1"

CONTAINERD = """\
version = 2
root = "{run}/containerd/root"
state = "{run}/containerd/state"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{run}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  disable_hugetlb_controller = true
  # Without CAP_SYS_RESOURCE nothing may be made less likely to be killed than we are.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{programs}/cni"
    conf_dir = "{run}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{programs}/runc"
"""


class Pods:
    def __init__(self, cluster, subnet):
        self.cluster, self.path = cluster, cluster.path
        # Several checkouts may run one each, side by side.
        self.subnet, self.bridge = subnet, f"pcul{subnet}"
        self.address = f"10.{subnet}.0.1"

    def up(self):
        cluster, run, programs = self.cluster, self.cluster.run, self.cluster.programs
        self.network()
        write = cluster.write
        config = CONTAINERD.format(run=run, programs=programs, pause=PAUSE)
        write(self.path("containerd.toml"), config)
        os.environ["PATH"] = programs + ":" + os.environ["PATH"]
        cluster.start("containerd", "--config", self.path("containerd.toml"), "--log-level", "error")
        self.until(lambda: self.ctr("version"), "containerd")
        self.images()
        kubeconfig = self.path("kubeconfig")
        leader = ["--kubeconfig", kubeconfig, "--leader-elect=false", "--port", "0", "--secure-port", "0", "--v", "0"]
        cluster.start(
            "kube-controller-manager", *leader, "--service-account-private-key-file", self.path("pki", "accounts.key"),
            "--root-ca-file", self.path("pki", "ca.crt"), "--use-service-account-credentials=false",
            "--controllers=*,-ttl,-cloud-node-lifecycle,-csrsigning,-csrapproving,-csrcleaner,-attachdetach",
            "--node-monitor-period=1s", "--node-monitor-grace-period=10s", "--pod-eviction-timeout=10s",
        )  # fmt: skip
        cluster.start("kube-scheduler", *leader)
        self.kubelet(kubeconfig)

    def network(self):
        subprocess.run(["ip", "link", "add", self.bridge, "type", "bridge"], check=False, capture_output=True)
        address = ["ip", "address", "replace", f"{self.address}/16", "dev", self.bridge]
        subprocess.run(address, check=True, capture_output=True)
        subprocess.run(["ip", "link", "set", self.bridge, "up"], check=True, capture_output=True)
        os.makedirs(self.path("cni"), exist_ok=True)
        ranges = [[{"subnet": f"10.{self.subnet}.0.0/16", "rangeStart": f"10.{self.subnet}.1.1"}]]
        ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": self.path("ipam")}
        bridge = {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam}
        network = {"cniVersion": "0.3.1", "name": "tests", "plugins": [bridge]}
        self.cluster.write(self.path("cni", "10-tests.conflist"), json.dumps(network))

    def kubelet(self, kubeconfig):
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": self.address,
            "port": 10250, "readOnlyPort": 0, "healthzPort": 0, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": True,
            "cgroupRoot": f"/{self.bridge}", "enforceNodeAllocatable": [], "makeIPTablesUtilChains": False, "failSwapOn": False,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": self.path("pki", "ca.crt")}},
            "authorization": {"mode": "Webhook"}, "registerNode": True, "fileCheckFrequency": "5s", "syncFrequency": "2s",
            "nodeStatusUpdateFrequency": "2s", "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100, "clusterDomain": "cluster.local", "maxPods": 200,
        }  # fmt: skip
        self.cluster.write(self.path("kubelet.json"), json.dumps(config))
        for group in os.listdir("/sys/fs/cgroup"):
            # Its own root, so that what runs beside it is not counted, nor killed.
            folder = f"/sys/fs/cgroup/{group}/{self.bridge}"
            if os.access(f"/sys/fs/cgroup/{group}/cgroup.procs", os.F_OK) and not os.path.isdir(folder):
                os.mkdir(folder)
                for name in ["cpuset.cpus", "cpuset.mems"]:
                    if os.path.exists(f"{folder}/{name}"):
                        with open(f"/sys/fs/cgroup/{group}/{name}", encoding="ascii") as parent, open(f"{folder}/{name}", "w", encoding="ascii") as own:
                            own.write(parent.read())
        self.cluster.start(
            "kubelet", "--config", self.path("kubelet.json"), "--kubeconfig", kubeconfig, "--root-dir", self.path("kubelet"),
            "--container-runtime", "remote", "--container-runtime-endpoint", f"unix://{self.path('containerd.sock')}",
            "--hostname-override", "node", "--node-ip", self.address, "--cert-dir", self.path("kubelet-pki"), "--v", "0",
        )  # fmt: skip

    def ctr(self, *arguments):
        command = [os.path.join(self.cluster.programs, "ctr"), "--address", self.path("containerd.sock"), "--namespace", "k8s.io", *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def images(self):
        for name, program in [(PAUSE, "pause"), (BUSYBOX, "busybox")]:
            with open(os.path.join(self.cluster.programs, program), "rb") as file:
                content = image(name, {program: file.read()}, [f"/{program}"])
            with open(self.path("image.tar"), "wb") as file:
                file.write(content)
            self.until(lambda: self.ctr("images", "import", self.path("image.tar")), name)

    def until(self, is_so, what):
        until = time.monotonic() + 60
        while not is_so():
            self.cluster.check()
            if time.monotonic() > until:
                raise RuntimeError(f"{what} does not answer")
            time.sleep(0.1)

    def down(self):
        """What is left once the programs are gone: containers, mounts, the bridge, cgroups."""
        for _ in range(50):
            left = {pid for group in ["pids", "memory"] for pid in members(f"/sys/fs/cgroup/{group}/{self.bridge}")} | self.shims()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)
        with open("/proc/self/mounts", encoding="utf-8") as file:
            mounts = [line.split()[1] for line in file]
        for mount in sorted((m for m in mounts if m.startswith(self.cluster.run + "/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        if shutil.which("ip"):
            subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        for folder in ["kubelet", "containerd", "ipam"]:
            shutil.rmtree(self.path(folder), ignore_errors=True)

    def shims(self):
        """What containerd left behind that watches its containers."""
        found = set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if self.path("containerd.sock").encode() in words and words[0].endswith(b"containerd-shim-runc-v2"):
                found.add(int(pid))
        return found


def members(folder):
    """The processes in a cgroup and all below it."""
    for place, _, files in os.walk(folder):
        if "cgroup.procs" in files:
            with open(os.path.join(place, "cgroup.procs"), encoding="ascii") as file:
                yield from (int(pid) for pid in file.read().split())


def image(name, files, command):
    """An image of these programs, as the archive that `docker save` makes."""
    layer = archive({path: (content, 0o755) for path, content in files.items()})
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": command, "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}, "history": [{"created_by": "tests"}],
    }  # fmt: skip
    config = json.dumps(config).encode()
    name_of_config = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name_of_config, "RepoTags": [name], "Layers": ["layer.tar"]}]
    return archive({name_of_config: (config, 0o644), "layer.tar": (layer, 0o644), "manifest.json": (json.dumps(manifest).encode(), 0o644)})


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
