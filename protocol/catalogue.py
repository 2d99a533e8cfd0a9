"""The attacks of ``doctor --attack``, and which walls stop each: the map that
``isolation="strict"`` decides by, without attacking anything.

The map is measured, not believed: the tests make every attack with each wall alone and compare.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Subject = Literal["files", "network", "processes", "resources", "kernel", "supervisor"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One attack."""

    title: str
    """What native code in a worker tries, in a few words."""
    subject: Subject
    walls: tuple[str, ...]
    """Walls of which each stops it alone, whoever runs the pool."""
    root: tuple[str, ...] = ()
    """Walls of which each stops it alone where root runs the pool: an ordinary user's worker has
    nothing that they could take from it."""
    sometimes: tuple[str, ...] = ()
    """Walls that stop it on some machines. They do not count."""
    sibling: bool = False
    """Whether it aims at another worker, which has to be there."""
    granted: bool = False
    """Whether it abuses a directory that was granted for writing."""

    def stopped_by(self, *, root: bool) -> frozenset[str]:
        """The walls that stop it in a pool of root, or of an ordinary user."""
        return frozenset((*self.walls, *(self.root if root else ())))


_SYSCTL = ("capabilities", "uid")
"""What stops attacks that the kernel leaves to root alone, or to everybody, as a sysctl says."""

ATTACKS: dict[str, Entry] = {
    "read_passwd": Entry(
        title="read /etc/passwd", subject="files", walls=("landlock", "namespace.mount")
    ),
    "read_private_file": Entry(
        title="read a private file of the program",
        subject="files",
        walls=("landlock", "namespace.mount"),
        root=("uid",),
    ),
    "read_cache_key": Entry(
        title="read the key of the module cache",
        subject="files",
        walls=("landlock", "namespace.mount"),
        root=("uid",),
    ),
    "write_file": Entry(
        title="write a file", subject="files", walls=("seccomp", "landlock", "namespace.mount")
    ),
    "fill_disk": Entry(
        title="make a file larger than allowed in a granted directory",
        subject="files",
        walls=("rlimits",),
        granted=True,
    ),
    "reserve_disk": Entry(
        title="take room on its disk that no file's size shows",
        subject="files",
        walls=("seccomp",),
        sometimes=("rlimits",),
        granted=True,
    ),
    "leave_device": Entry(
        title="leave a device file in a granted directory",
        subject="files",
        walls=("seccomp",),
        granted=True,
    ),
    "make_device": Entry(
        title="make a device file",
        subject="files",
        walls=("landlock", "seccomp", "namespace.mount"),
        root=("capabilities", "uid"),
    ),
    "open_kvm": Entry(
        title="open /dev/kvm",
        subject="files",
        walls=("seccomp", "landlock", "namespace.mount"),
        sometimes=("uid",),
    ),
    "forge_artifact": Entry(
        title="forge a cached artifact",
        subject="files",
        walls=("seccomp", "landlock", "namespace.mount"),
        root=("uid",),
    ),
    "connect_tcp": Entry(
        title="connect to loopback by TCP",
        subject="network",
        walls=("landlock.network", "seccomp", "namespace.network"),
    ),
    "send_udp": Entry(
        title="send UDP to loopback", subject="network", walls=("seccomp", "namespace.network")
    ),
    "connect_path": Entry(
        title="connect to a Unix socket by path",
        subject="network",
        walls=("seccomp", "namespace.mount"),
    ),
    "connect_abstract": Entry(
        title="connect to an abstract socket",
        subject="network",
        walls=("landlock.scope", "seccomp", "namespace.network"),
    ),
    "listen_tcp": Entry(
        title="listen on a TCP port",
        subject="network",
        walls=("landlock.network", "seccomp", "namespace.network"),
    ),
    "open_raw": Entry(
        title="open a raw socket",
        subject="network",
        walls=("seccomp",),
        root=("capabilities", "uid"),
    ),
    "open_netlink": Entry(title="open a netlink socket", subject="network", walls=("seccomp",)),
    "signal_supervisor": Entry(
        title="signal the program",
        subject="processes",
        walls=("landlock.scope", "seccomp", "namespace.pid"),
        root=("uid",),
    ),
    "signal_sibling": Entry(
        title="signal another worker",
        subject="processes",
        walls=("landlock.scope", "seccomp", "namespace.pid"),
        root=("uid",),
        sibling=True,
    ),
    "trace_supervisor": Entry(
        title="ptrace the program",
        subject="processes",
        walls=("landlock", "seccomp", "namespace.user", "namespace.pid"),
        root=("capabilities", "uid"),
    ),
    "trace_sibling": Entry(
        title="ptrace another worker",
        subject="processes",
        walls=("landlock", "seccomp", "namespace.pid"),
        root=("uid",),
        sometimes=("dumpable",),
        sibling=True,
    ),
    "read_supervisor": Entry(
        title="read the program's memory",
        subject="processes",
        walls=("landlock", "seccomp", "namespace.user", "namespace.pid"),
        root=("capabilities", "uid"),
    ),
    "read_sibling": Entry(
        title="read another worker's memory",
        subject="processes",
        walls=("landlock", "seccomp", "namespace.pid"),
        root=("uid",),
        sometimes=("dumpable",),
        sibling=True,
    ),
    "write_supervisor": Entry(
        title="write the program's memory",
        subject="processes",
        walls=("landlock", "seccomp", "namespace.user", "namespace.pid"),
        root=("capabilities", "uid"),
    ),
    "write_sibling": Entry(
        title="write another worker's memory",
        subject="processes",
        walls=("landlock", "seccomp", "namespace.pid"),
        root=("uid",),
        sometimes=("dumpable",),
        sibling=True,
    ),
    "read_proc_mem": Entry(
        title="read /proc/PID/mem of the program",
        subject="processes",
        walls=("landlock", "namespace.user", "namespace.mount"),
        root=("capabilities", "uid"),
    ),
    "write_proc_mem": Entry(
        title="write /proc/PID/mem of the program",
        subject="processes",
        walls=("seccomp", "landlock", "namespace.user", "namespace.mount"),
        root=("capabilities", "uid"),
    ),
    "read_proc_environ": Entry(
        title="read /proc/PID/environ of it",
        subject="processes",
        walls=("landlock", "namespace.user", "namespace.mount"),
        root=("capabilities", "uid"),
    ),
    "limit_supervisor": Entry(
        title="change the program's limits",
        subject="processes",
        walls=("seccomp", "namespace.pid"),
        root=("uid",),
    ),
    "read_own_environment": Entry(
        title="find secrets in the environment", subject="processes", walls=("environment",)
    ),
    "use_inherited_handle": Entry(
        title="use an inherited process handle",
        subject="processes",
        walls=("descriptors", "landlock.scope", "seccomp", "namespace.pid"),
        root=("uid",),
    ),
    "fork_bomb": Entry(title="fork bomb", subject="processes", walls=("seccomp", "cgroup.pids")),
    "execute": Entry(
        title="execute a program",
        subject="processes",
        walls=("landlock", "seccomp", "namespace.mount"),
    ),
    "execute_set_uid": Entry(
        title="execute a set-uid program",
        subject="processes",
        walls=("no_new_privs", "landlock", "seccomp", "namespace.mount"),
    ),
    "leave_process": Entry(
        title="leave a process behind",
        subject="processes",
        walls=("seccomp", "namespace.pid", "cgroup.memory", "cgroup.pids", "cgroup.cpu"),
    ),
    "outlive": Entry(
        title="outlive the parent", subject="processes", walls=("death_signal", "namespace.pid")
    ),
    "outlive_without_signal": Entry(
        title="outlive it, death signal cleared",
        subject="processes",
        walls=("seccomp", "namespace.pid"),
    ),
    "take_private_memory": Entry(
        title="take 10 GiB of private memory",
        subject="resources",
        walls=("rlimits", "cgroup.memory"),
    ),
    "take_shared_memory": Entry(
        title="take 10 GiB of shared memory",
        subject="resources",
        walls=("seccomp", "cgroup.memory"),
    ),
    "take_stack_memory": Entry(
        title="take 10 GiB of memory that grows like a stack",
        subject="resources",
        walls=("seccomp", "cgroup.memory"),
    ),
    "start_threads": Entry(title="start 96 threads", subject="resources", walls=("cgroup.pids",)),
    "burn_processor": Entry(
        title="spin on 8 threads",
        subject="resources",
        walls=("supervisor", "cgroup.cpu"),
    ),
    "open_descriptors": Entry(
        title="open 100,000 descriptors",
        subject="resources",
        walls=("rlimits",),
        sometimes=("seccomp",),
    ),
    "raise_limits": Entry(
        title="raise the own resource limits",
        subject="resources",
        walls=("seccomp",),
        sometimes=("rlimits",),  # hard limits do not hold a root that has CAP_SYS_RESOURCE
    ),
    "leave_group": Entry(
        title="leave the own cgroup",
        subject="resources",
        walls=("seccomp", "landlock", "namespace.mount"),
        root=("uid",),
    ),
    "raise_group_limit": Entry(
        title="raise the own cgroup's limit",
        subject="resources",
        walls=("seccomp", "landlock", "namespace.mount"),
        root=("uid",),
    ),
    "mount": Entry(
        title="mount a file system",
        subject="kernel",
        walls=("landlock", "seccomp", "namespace.mount"),
        root=("capabilities", "uid"),
    ),
    "make_user_namespace": Entry(
        title="make a user namespace", subject="kernel", walls=("seccomp",)
    ),
    "make_network_namespace": Entry(
        title="make a network namespace",
        subject="kernel",
        walls=("seccomp",),
        root=("capabilities", "uid"),
    ),
    "load_module": Entry(
        title="load a kernel module",
        subject="kernel",
        walls=("seccomp",),
        root=("capabilities", "uid"),
    ),
    "load_bpf": Entry(
        title="make a BPF map",
        subject="kernel",
        walls=("seccomp",),
        sometimes=_SYSCTL,
    ),
    "open_perf_event": Entry(
        title="open a performance counter",
        subject="kernel",
        walls=("seccomp",),
        sometimes=_SYSCTL,
    ),
    "open_userfaultfd": Entry(
        title="userfaultfd", subject="kernel", walls=("seccomp",), sometimes=_SYSCTL
    ),
    "set_up_io_uring": Entry(
        title="io_uring", subject="kernel", walls=("seccomp",), sometimes=("rlimits",)
    ),
    "add_key": Entry(title="add a key to the kernel's rings", subject="kernel", walls=("seccomp",)),
    "rename_machine": Entry(
        title="rename the machine",
        subject="kernel",
        walls=("seccomp", "namespace.uts"),
        root=("capabilities", "uid"),
    ),
    "read_shared_memory": Entry(
        title="read System V shared memory",
        subject="kernel",
        walls=("seccomp", "namespace.ipc"),
        root=("uid",),
    ),
    "send_oversized_frame": Entry(
        title="announce a frame of 4 GiB", subject="supervisor", walls=()
    ),
    "send_noise": Entry(title="send bytes that are no message", subject="supervisor", walls=()),
    "send_out_of_turn": Entry(
        title="answer a call that nobody made", subject="supervisor", walls=()
    ),
    "send_wrong_result": Entry(
        title="forge a result of another type", subject="supervisor", walls=()
    ),
    "resize_arena": Entry(title="cut off the shared arena", subject="supervisor", walls=()),
    "change_arena": Entry(title="change data after its check", subject="supervisor", walls=()),
}
