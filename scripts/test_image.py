#!/usr/bin/env python3
"""Builds the Dockerfile for real on a machine without Docker, starts the image as its own user, and asks it over HTTP.

    make test-image

needs root, and installs buildah and debootstrap with apt where they are missing. The images that the Dockerfile builds on
are made here: a minimal Debian by debootstrap, and the same with a compiler and this machine's own Rust, with this
machine's CA certificates laid over, so that cargo and pip in the build trust what they trust here. What was made is kept in
.image, and in buildah's own storage, so that the second time is quick.

What is shown: the image is small beyond its base; it runs as its user, on a root file system that it cannot write to, and
without a shell; it answers /predict; its state survives a restart; its health check says what is true; SIGTERM ends it in
order.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".image"
SUITE = "bookworm"
MOST_MEGABYTES = 150
PORT, ADMIN = 18080, 18081
USER = 65532
LOG = WORK / "leeway.log"


def run(*command, **options):
    print("+", " ".join(str(part) for part in command), flush=True)
    return subprocess.run([str(part) for part in command], check=True, **options)


def said(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout.strip()


def needed():
    """What does the work, installed if it is not there."""
    if os.geteuid() != 0:
        sys.exit("error: debootstrap and a container without a daemon need root")
    missing = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    if missing:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", *missing, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


@contextlib.contextmanager
def container_from(image):
    container = said("buildah", "from", image)
    try:
        yield container
    finally:
        run("buildah", "rm", container, stdout=subprocess.DEVNULL)


def has_image(name):
    return subprocess.run(["buildah", "inspect", "--type", "image", name], capture_output=True).returncode == 0


def base_image():
    """A minimal Debian, as the image's base."""
    if has_image("localhost/leeway-base"):
        return
    rootfs = WORK / "rootfs"
    if not (rootfs / "etc/debian_version").exists():
        shutil.rmtree(rootfs, ignore_errors=True)
        WORK.mkdir(exist_ok=True)
        run("debootstrap", "--variant=minbase", SUITE, rootfs)
    with container_from("scratch") as container:
        run("buildah", "add", "--quiet", container, rootfs, "/", stdout=subprocess.DEVNULL)
        run("buildah", "commit", "--quiet", container, "localhost/leeway-base", stdout=subprocess.DEVNULL)


def build_image():
    """The same with what builds: a compiler, pip, and this machine's Rust, after whose version it is called."""
    image = f"localhost/leeway-rust:{said('rustc', '--version').split()[1]}"
    if has_image(image):
        return image
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    packages = "apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc g++ libc6-dev make ca-certificates python3 python3-pip"
    toolchain = said("rustc", "--print", "sysroot")
    variables = {"PATH": "/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    variables |= {name: certificates for name in ("SSL_CERT_FILE", "PIP_CERT", "CARGO_HTTP_CAINFO")}
    with container_from("localhost/leeway-base") as container:
        run("buildah", "run", "--isolation=chroot", "--network=host", container, "--", "sh", "-c", packages, stdout=subprocess.DEVNULL)
        run("buildah", "add", "--quiet", container, toolchain, "/usr/local/rust", stdout=subprocess.DEVNULL)
        run("buildah", "add", "--quiet", container, certificates, certificates, stdout=subprocess.DEVNULL)
        run("buildah", "config", *(f"--env={name}={value}" for name, value in variables.items()), container)
        run("buildah", "commit", "--quiet", container, image, stdout=subprocess.DEVNULL)
    return image


def size_of(path):
    return int(said("du", "-sm", path).split()[0])


class Container:
    """The image's command, run as the image says: its user, its environment; its root cannot be written to."""

    def __init__(self, root, state, config):
        self.root, self.state = root, state
        environment = dict(pair.split("=", 1) for pair in config["Env"])
        environment |= {"LEEWAY_HTTP__LISTEN": f"127.0.0.1:{PORT}", "LEEWAY_ADMIN__LISTEN": f"127.0.0.1:{ADMIN}"}
        environment["LEEWAY_REPOSITORY__DEFAULT_MODEL"] = "digits"
        self.environment = environment
        self.command = config["Entrypoint"] + config["Cmd"]
        self.user, self.group = (int(part) for part in config["User"].split(":"))

    @contextlib.contextmanager
    def running(self):
        """Its command, ready; its log is shown if something goes wrong."""
        with LOG.open("w") as log:
            server = subprocess.Popen(self.within(self.command, self.user), env=self.environment, stderr=log)
        try:
            until(lambda: get("/readyz")[0] == 200 or server.poll() is not None, "readiness")
            if server.poll() is not None:
                sys.exit(f"error: the image's command ended with {server.returncode}")
            yield server
        except BaseException:
            print(LOG.read_text()[-3000:])
            raise
        finally:
            server.kill()
            server.wait()

    def ask(self, *command, root=False):
        command = self.within(command, 0 if root else self.user)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def within(self, command, user):
        # A mount namespace of its own, in which the root is read-only and the state is mounted: what a container engine does.
        script = (
            'mount --bind "$1" "$1" && mount --bind "$2" "$1/var/lib/leeway" && mount -t proc proc "$1/proc" && '
            'mount --bind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/tmp" && mount -o remount,ro,bind "$1" && '
            'root=$1 user=$3 group=$4 && shift 4 && '
            'exec chroot --userspec="$user:$group" --groups="$group" "$root" "$@"'
        )
        arguments = [self.root, self.state, user, self.group, *command]
        return ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, arguments)]


def get(path, port=PORT, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()
    except OSError as error:
        return 0, {}, str(error)


def until(question, what, seconds=60):
    end = time.monotonic() + seconds
    while not question():
        if time.monotonic() > end:
            sys.exit(f"error: {what} did not come true in {seconds} s")
        time.sleep(0.05)


def expect(holds, what):
    print(("ok    " if holds else "FAILED ") + what, flush=True)
    if not holds:
        sys.exit(1)


def main():
    # As Ctrl-C does: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    needed()
    base_image()
    rust = build_image()
    run(
        "buildah", "bud", "--isolation=chroot", "--network=host", "--layers", "--format=docker", "--tag=localhost/leeway-test",
        f"--build-arg=RUST={rust}", "--build-arg=BASE=localhost/leeway-base", ROOT,
    )
    config = json.loads(said("buildah", "inspect", "--type", "image", "localhost/leeway-test"))["Docker"]["config"]
    expect(config["User"] == f"{USER}:{USER}", "the image has a user of its own")
    expect(config["StopSignal"] == "SIGTERM" and "/var/lib/leeway" in config["Volumes"], "a stop signal and a volume")
    expect(config["Healthcheck"]["Test"] == ["CMD", "leeway", "health"], "a health check without a shell")
    expect(any(name.startswith("org.opencontainers.image.") for name in config["Labels"]), "labels")

    with container_from("localhost/leeway-test") as container, container_from("localhost/leeway-base") as base:
        look_at(config, said("buildah", "mount", container), said("buildah", "mount", base))
    print("the image is good")


def look_at(config, root, base_root):
    beyond = size_of(root) - size_of(base_root)
    expect(beyond < MOST_MEGABYTES, f"the image is {beyond} MB beyond its base, below {MOST_MEGABYTES}")
    state = WORK / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    os.chown(state, USER, USER)
    # What is run has no shell: only the program and what it links to.
    run("rm", "-f", f"{root}/bin/sh", f"{root}/usr/bin/sh", f"{root}/usr/bin/dash", f"{root}/usr/bin/bash")

    leeway = Container(root, state, config)
    health = leeway.ask("/usr/local/bin/leeway", "health")
    expect(health.returncode == 1 and "no server answers" in health.stderr, "the health check says that nothing runs")
    locales = leeway.ask("/usr/bin/locale", "-a").stdout.split()
    expect("en_US.utf8" in locales, "the locale of models that lower the case of texts is there")
    pixels = json.loads((ROOT / "tests/data/digits_held_out.json").read_text())
    body = json.dumps({"instances": pixels["instances"][:3]}).encode()
    with leeway.running() as server:
        owner = os.stat(f"/proc/{server.pid}").st_uid
        expect(owner == USER, f"it runs as user {owner}")
        touched = leeway.ask("/usr/bin/touch", "/srv/models/x", root=True)
        expect("Read-only file system" in touched.stderr, "its root file system cannot be written to, not even by root")
        status, headers, text = get("/predict", body=body)
        labels = [prediction["label"] for prediction in json.loads(text)["predictions"]]
        expect(status == 200 and labels == pixels["versions"]["2"]["labels"][:3], f"/predict says {labels}")
        expect(leeway.ask("/usr/local/bin/leeway", "health").returncode == 0, "the health check says that it is ready")
        put = leeway.ask("/usr/local/bin/leeway", "promote", "digits", "1", "--reason", "an image test")
        expect(put.returncode == 0 and get("/predict", body=body)[1].get("x-model-version") == "1", "version 1 is promoted")
        server.send_signal(signal.SIGTERM)
        until(lambda: get("/readyz")[0] == 503, "not being ready after SIGTERM", 5)
        status, headers, _ = get("/predict", body=body)
        expect(status == 200 and headers.get("connection") == "close", "after SIGTERM it serves on, and asks to close")
        expect(server.wait(60) == 0, "then it ends with 0")

    with leeway.running() as server:
        expect(get("/predict", body=body)[1].get("x-model-version") == "1", "the state has survived the restart")
        server.send_signal(signal.SIGINT)
        expect(server.wait(60) == 0, "Ctrl-C ends it, too")


if __name__ == "__main__":
    main()
