"""An image of one program and the libraries that it needs, put into the cluster of supervise.py: image.py PROGRAMS RUN NAME PROGRAM

NAME is the image's, PROGRAM the path of the program, which is /usr/local/bin/NAME-OF-THE-FILE in it and its entrypoint. What is there beside it is what a
distroless image has: the loader, the libraries, certificates. The user is 65532.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def libraries(program):
    """The files that the loader maps, and the loader itself."""
    told = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for line in told.splitlines():
        for word in line.split():
            if word.startswith("/"):
                yield word


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main():
    programs, run, name, program = sys.argv[1:]
    inside = f"/usr/local/bin/{os.path.basename(program)}"
    with tempfile.TemporaryDirectory() as aside:
        stripped = os.path.join(aside, "program")
        # Without what is for debuggers: a fifth of the size.
        subprocess.run(["strip", "-o", stripped, program], check=True)
        layer = os.path.join(aside, "layer.tar")
        with tarfile.open(layer, "w", dereference=True) as tar:
            tar.add(stripped, inside)
            for path in dict.fromkeys([*libraries(program), CERTIFICATES]):
                tar.add(path)
        config = {
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
            "config": {"Entrypoint": [inside], "User": "65532:65532", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
            "history": [{"created_by": "tests"}],
        }  # fmt: skip
        files = {"config.json": config, "manifest.json": [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]}
        for file, content in files.items():
            with open(os.path.join(aside, file), "w", encoding="ascii") as out:
                json.dump(content, out)
        archive = os.path.join(aside, "image.tar")
        with tarfile.open(archive, "w") as tar:
            for file in [*files, "layer.tar"]:
                tar.add(os.path.join(aside, file), file)
        ctr = [os.path.join(programs, "ctr"), "--address", os.path.join(run, "containerd.sock"), "--namespace", "k8s.io"]
        subprocess.run([*ctr, "images", "import", archive], check=True, stdout=subprocess.DEVNULL)


main()
