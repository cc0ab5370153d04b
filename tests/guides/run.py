#!/usr/bin/env python3
"""Runs the commands of the guides in docs/ between hosts made of namespaces, as a reader runs them.

Used by ctest (tests "guide.NAME"). Each host has its own network, mount and process namespace: /etc, /srv, /var
and /usr/local are overlays and /run and /tmp are empty, so the guides' paths are used as they stand and the machine
keeps none of it. Every process of a host ends with its first process, and that ends with this program.
"""

import argparse
import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BLOCK_LIMIT_S = 240  # for one block of a guide: emulated guests boot and migrate within a minute each
SETUP_LIMIT_S = 30
SKIPPED = 77  # ctest's exit status for a case that this machine cannot run
NOT_RUN = {"on the build machine", "in the guest"}  # the build is done; the test guest has an echo of its own

# The directories that each host has for itself. The lower layer is the machine's directory.
OVERLAYS = ("/etc", "/srv", "/var", "/usr/local")
EMPTY = ("/run", "/tmp")
GUEST_DIRECTORY = "/usr/local/share/test-guest"  # kernel and initramfs of the test guest, in each host

HOST_INIT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
for directory in {overlays}; do
    mkdir -p "$1$directory/upper" "$1$directory/work"
    mount -t overlay overlay -o "lowerdir=$directory,upperdir=$1$directory/upper,workdir=$1$directory/work" "$directory"
done
install -m 755 "$2" /usr/local/bin/sidecar
[ -z "$3" ] || {{ mkdir -p {guest} && cp "$3/vmlinuz" "$3/initramfs.cpio.gz" {guest}/; }}
for directory in {empty}; do mount -t tmpfs tmpfs "$directory"; done
ip link set lo up
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
echo ready
exec sleep infinity
""".format(overlays=" ".join(OVERLAYS), empty=" ".join(EMPTY), guest=GUEST_DIRECTORY)


def end_with_parent():
    """In a child before it execs: the kernel kills it when this program ends, however it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Host:
    """A network, mount and process namespace with the paths of a fresh host."""

    def __init__(self, name, sidecar, guest_files, directory):
        self.name = name
        self.scratch = directory / name.replace(" ", "-")
        self.scratch.mkdir()
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", HOST_INIT,
             "host", str(self.scratch), str(sidecar), str(guest_files or "")],
            stdout=subprocess.PIPE, preexec_fn=end_with_parent)
        if self.holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{name} could not be made")
        children = pathlib.Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        self.pid = int(children[0])

    def run(self, script, limit_s=SETUP_LIMIT_S, quiet=True):
        """Runs a shell script in the host; it must succeed. What it leaves running stays."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--wd=/", "bash", "-e", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None, timeout=limit_s)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: status {done.returncode} of\n{script}\n{(done.stdout or b'').decode()}")
        return (done.stdout or b"").decode()

    def read(self, path):
        done = subprocess.run(["nsenter", "--target", str(self.pid), "--mount", "--pid", "cat", path],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return done.stdout if done.returncode == 0 else None

    def write(self, path, content):
        script = 'umask 077; cat >"$1"'
        subprocess.run(["nsenter", "--target", str(self.pid), "--mount", "--pid", "sh", "-c", script, "write", path],
                       input=content, check=True)

    def end(self):
        self.holder.kill()
        self.holder.wait()


class Lab:
    """The hosts of one guide, and a switch for each wire between them."""

    def __init__(self, names, wires, sidecar, guest_files):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="sidecar-guide-"))
        self.hosts = {}
        try:
            self.switch = Host("switch", sidecar, None, self.directory)
            for name in names:
                self.hosts[name] = Host(name, sidecar, guest_files, self.directory)
            for wire in wires:
                self.lay(wire)
        except BaseException:
            self.end()
            raise

    def lay(self, wire):
        """One cable from every host to a bridge of the switch; `wire` is its name in each host."""
        mtu = 1600  # enough for VXLAN's header around 1500 bytes
        self.switch.run(f"ip link add {wire} type bridge && ip link set {wire} up mtu {mtu}")
        for number, host in enumerate(self.hosts.values()):
            port = f"{wire}-{number}"
            self.switch.run(f"ip link add {port} mtu {mtu} type veth peer name peer mtu {mtu} && "
                            f"ip link set {port} master {wire} up")
            self.give("peer", host, wire)

    def give(self, link, host, name):
        """Moves a link of the switch into a host, which names it `name`."""
        subprocess.run(["nsenter", "--target", str(self.switch.pid), "--net", "ip", "link", "set", link, "netns",
                        str(host.pid)], check=True)
        host.run(f"ip link set {link} name {name} && ip link set {name} up")

    def end(self):
        for host in [*self.hosts.values(), getattr(self, "switch", None)]:
            if host:
                host.end()
        shutil.rmtree(self.directory, ignore_errors=True)


def blocks(path):
    """The ```sh blocks of a guide: (where it runs, the commands)."""
    text = path.read_text()
    for match in re.finditer(r"^```sh\n# ([^\n]+)\n(.*?)^```$", text, re.M | re.S):
        yield match.group(1), match.group(2)


def hosts_of(where, lab):
    if where == "on both hosts":
        return [lab.hosts["host a"], lab.hosts["host b"]]
    return [lab.hosts[where.removeprefix("on ").removeprefix("the ")]]


def hand_over_files(lab, paths):
    """What the guides tell the reader to copy from host a to the other hosts."""
    for path in paths:
        content = lab.hosts["host a"].read(path)
        if content:
            for host in lab.hosts.values():
                if host.name != "host a" and host.read(path) != content:
                    host.write(path, content)


def run_guide(name, lab, only=None):
    """Runs the blocks of docs/guide-NAME.md in order; `only` takes the blocks of the named steps."""
    path = ROOT / "docs" / f"guide-{name}.md"
    text = path.read_text()
    if only:
        parts = re.split(r"(?m)^## ", text)
        text = "".join(part for part in parts if part[:1] in only)
        path = lab.directory / f"{name}.md"
        path.write_text(text)
    ran = 0
    for where, script in blocks(path):
        if where in NOT_RUN:
            continue
        for host in hosts_of(where, lab):
            print(f"--- guide-{name}: on {host.name}\n{script.rstrip()}", flush=True)
            print(host.run(script, BLOCK_LIMIT_S), end="", flush=True)
            ran += 1
        hand_over_files(lab, ["/etc/sidecar.psk", "/tmp/moved.json"])
    if ran == 0:
        raise RuntimeError(f"guide-{name} has no block that could be run: is its form as before?")


def bridge_and_addresses(lab):
    """One L2 network: each host's bridge br0 on its wire, with the guides' addresses."""
    for number, host in enumerate(lab.hosts.values(), 1):
        host.run(f"ip link add br0 type bridge && ip link set eth1 master br0 && ip link set br0 up && "
                 f"ip addr add 192.0.2.{number}/24 dev br0 && ip -6 addr add 2001:db8::{number}/64 dev br0 nodad")


def expect(condition, what):
    if not condition:
        raise RuntimeError(f"after the guide: {what}")


def two_hosts(lab):
    bridge_and_addresses(lab)
    run_guide("two-hosts", lab)
    expect("running" in lab.hosts["host a"].run("sidecar status web1"), "web1 does not run on host a")
    expect(not lab.hosts["host b"].run("pgrep -x qemu-system-x86 || true"), "a QEMU is left on host b")


def replication(lab):
    two_hosts(lab)
    run_guide("replication", lab)
    expect("running" in lab.hosts["host a"].run("sidecar status web1"), "web1 is not back on host a")
    expect("running" in lab.hosts["host b"].run("sidecar status web2"), "web2 does not run on host b")


def parallel_networks(lab):
    run_guide("two-hosts", lab, only="23")
    run_guide("parallel-networks", lab)
    expect("running" in lab.hosts["host b"].run("sidecar status web1"), "web1 does not run on host b")


def vxlan(lab):
    for number, host in enumerate(lab.hosts.values(), 1):
        host.run(f"ip addr add 192.0.2.{number}/24 dev eth1")
    run_guide("two-hosts", lab, only="2")
    run_guide("vxlan", lab)
    expect("running" in lab.hosts["host b"].run("sidecar status web1"), "web1 does not run on host b")


def across_subnets(lab):
    """The switch is the router between the two subnets."""
    lab.switch.run("sysctl -qw net.ipv4.ip_forward=1; ip addr add 192.0.2.254/24 dev eth1;"
                   "ip link set eth1-1 nomaster; ip addr add 198.51.100.254/24 dev eth1-1")
    lab.hosts["host a"].run("ip link add br0 type bridge && ip link set eth1 master br0 && ip link set br0 up &&"
                            "ip addr add 192.0.2.1/24 dev br0 && ip route add default via 192.0.2.254")
    lab.hosts["host b"].run("ip addr add 198.51.100.2/24 dev eth1 && ip route add default via 198.51.100.254")
    run_guide("two-hosts", lab, only="2")
    run_guide("across-subnets", lab)
    expect("running" in lab.hosts["host a"].run("sidecar status web1"), "web1 is not back on host a")
    for host in lab.hosts.values():
        expect(host.run("sidecar anchor list --json").split() in (["[]"], ["[", "]"]), f"{host.name} has an anchor")


def probe(lab):
    bridge_and_addresses(lab)
    run_guide("two-hosts", lab, only="23")
    # The guest in the guide has an operating system with an echo. Here the test guest takes its place.
    for name in ("host a", "host b"):
        lab.hosts[name].run(f"cp {GUEST_DIRECTORY}/vmlinuz {GUEST_DIRECTORY}/initramfs.cpio.gz /srv/vm/")
    lab.hosts["host a"].run(f"""
        truncate -s 64M /srv/vm/web1.raw
        sidecar run web1 --bridge br0 -- qemu-system-x86_64 -M q35 -accel tcg -m 262136K -nodefaults -nographic \\
            -kernel /srv/vm/vmlinuz -initrd /srv/vm/initramfs.cpio.gz \\
            -append 'console=ttyS0 quiet panic=-1 no_timer_check witness.disk=vda witness.net=eth0,ip4=192.0.2.10/24,ip6=2001:db8::10/64' \\
            -serial file:/srv/vm/serial.log -drive if=none,id=d0,file=/srv/vm/web1.raw,format=raw \\
            -device virtio-blk-pci,drive=d0 -netdev tap,id=n0,ifname=web1,script=no,downscript=no \\
            -device virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56 >/var/log/web1.log 2>&1 &
        until ping -c 1 -W 1 192.0.2.10 && ping -c 1 -W 1 2001:db8::10; do :; done""", BLOCK_LIMIT_S)
    run_guide("probe", lab)
    expect(b"longest_gap_ms" in (lab.hosts["client"].read("/tmp/seen.json") or b""), "the probe measured nothing")


# Each guide: its function, its hosts, its wires.
GUIDES = {
    "two-hosts": (two_hosts, ["host a", "host b"], ["eth1"]),
    "replication": (replication, ["host a", "host b"], ["eth1"]),
    "parallel-networks": (parallel_networks, ["host a", "host b"], ["eth1", "eth2", "eth3"]),
    "vxlan": (vxlan, ["host a", "host b", "host c"], ["eth1"]),
    "across-subnets": (across_subnets, ["host a", "host b"], ["eth1"]),
    "probe": (probe, ["host a", "host b", "client"], ["eth1"]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("guide", choices=GUIDES)
    parser.add_argument("--sidecar", required=True, type=pathlib.Path, help="the program that was built")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: namespaces need root")
        return SKIPPED
    run, names, wires = GUIDES[arguments.guide]
    guest_files = pathlib.Path(os.environ.get("SIDECAR_DEPS", ROOT / ".deps")) / "guest"
    lab = Lab(names, wires, arguments.sidecar.resolve(), guest_files)
    try:
        run(lab)
    except (RuntimeError, subprocess.SubprocessError) as error:
        print(f"FAILED: {error}")
        for host in lab.hosts.values():
            print(host.run("tail -n 20 /var/log/sidecar-serve.log /var/log/web*.log 2>/dev/null || true"))
        return 1
    finally:
        lab.end()
    print(f"guide-{arguments.guide}: every command succeeded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
