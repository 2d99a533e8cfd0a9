"""Native code in a worker, as if a guest had broken out of the engine: attacks on every wall.

A worker of the role ``attack`` is forked, jailed and configured like any other; where another would
run a guest it runs one of these functions. They are harmless: they aim at what the supervisor made
for them (``protocol.attacks.Targets``), and what they take is bounded.
"""

from __future__ import annotations

from collections.abc import Callable

from ...protocol.attacks import Attack, Report
from ...protocol.description import ModuleDescription
from ...protocol.messages import Failure, LentFunction, Task
from ...protocol.profile import Profile
from ..runtime import Result, Runtime
from ..transfer import Transfer
from . import files, kernel, network, processes, resources, supervisor
from .native import Stopped
from .processes import on_sibling, on_supervisor
from .scene import Scene

FUNCTIONS: dict[str, Callable[[Scene], str]] = {
    "read_passwd": files.read_passwd,
    "read_private_file": files.read_private_file,
    "read_cache_key": files.read_cache_key,
    "write_file": files.write_file,
    "fill_disk": files.fill_disk,
    "reserve_disk": files.reserve_disk,
    "leave_device": files.leave_device,
    "make_device": files.make_device,
    "open_kvm": files.open_kvm,
    "forge_artifact": files.forge_artifact,
    "connect_tcp": network.connect_tcp,
    "send_udp": network.send_udp,
    "connect_path": network.connect_path,
    "connect_abstract": network.connect_abstract,
    "listen_tcp": network.listen_tcp,
    "open_raw": network.open_raw,
    "open_netlink": network.open_netlink,
    "signal_supervisor": on_supervisor(processes.send_signal),
    "signal_sibling": on_sibling(processes.send_signal),
    "trace_supervisor": on_supervisor(processes.trace),
    "trace_sibling": on_sibling(processes.trace),
    "read_supervisor": on_supervisor(processes.read_memory),
    "read_sibling": on_sibling(processes.read_memory),
    "write_supervisor": on_supervisor(processes.write_memory),
    "write_sibling": on_sibling(processes.write_memory),
    "read_proc_mem": on_supervisor(processes.read_memory_file),
    "write_proc_mem": on_supervisor(processes.write_memory_file),
    "read_proc_environ": on_supervisor(processes.read_environment),
    "limit_supervisor": on_supervisor(processes.change_limits),
    "read_own_environment": processes.read_own_environment,
    "use_inherited_handle": processes.use_inherited_handle,
    "fork_bomb": processes.fork_bomb,
    "execute": processes.execute,
    "execute_set_uid": processes.execute_set_uid,
    "leave_process": processes.leave_process,
    "outlive": processes.outlive,
    "outlive_without_signal": processes.outlive_without_signal,
    "take_private_memory": resources.take_private_memory,
    "take_shared_memory": resources.take_shared_memory,
    "take_stack_memory": resources.take_stack_memory,
    "start_threads": resources.start_threads,
    "burn_processor": resources.burn_processor,
    "open_descriptors": resources.open_descriptors,
    "raise_limits": resources.raise_limits,
    "leave_group": resources.leave_group,
    "raise_group_limit": resources.raise_group_limit,
    "mount": kernel.mount,
    "make_user_namespace": kernel.make_user_namespace,
    "make_network_namespace": kernel.make_network_namespace,
    "load_module": kernel.load_module,
    "load_bpf": kernel.load_bpf,
    "open_perf_event": kernel.open_perf_event,
    "open_userfaultfd": kernel.open_userfaultfd,
    "set_up_io_uring": kernel.set_up_io_uring,
    "add_key": kernel.add_key,
    "rename_machine": kernel.rename_machine,
    "read_shared_memory": kernel.read_shared_memory,
    "send_oversized_frame": supervisor.send_oversized_frame,
    "send_noise": supervisor.send_noise,
    "send_out_of_turn": supervisor.send_out_of_turn,
    "send_wrong_result": supervisor.send_wrong_result,
    "resize_arena": supervisor.resize_arena,
    "change_arena": supervisor.change_arena,
    "expose": processes.expose,
}


def runtime(attack: Attack) -> Callable[[Profile, str], Runtime]:
    """What makes the runtime of a worker that attacks."""

    def make(profile: Profile, raw_path_fault: str) -> Runtime:
        return _Attacker(attack, profile, raw_path_fault)

    return make


class _Attacker(Runtime):
    """A runtime with a real engine, whose calls run the attack instead of a guest."""

    def __init__(self, attack: Attack, profile: Profile, raw_path_fault: str) -> None:
        super().__init__(profile, raw_path_fault)
        self._attack = attack
        self._granted = profile.directories

    def load(
        self,
        number: int,
        descriptor: int,
        description: ModuleDescription,
        lent: tuple[LentFunction, ...] = (),
        *,
        companion: bool = False,
    ) -> Failure | None:
        """There is no module: the attack was in this process from its beginning."""
        return None

    def guard(self, gate: int, warden: int) -> None:
        """There is no guest whose use of files could be watched."""

    def run(self, message: Task, transfer: Transfer, stdin: int) -> Result:
        """Attack, and report."""
        scene = Scene(self._attack.targets, transfer, self._granted)
        try:
            evidence = FUNCTIONS[self._attack.name](scene)
        except (OSError, Stopped) as error:  # any other error is a fault of the attack itself
            scene.report(Report(False, str(error)))
        else:
            scene.report(Report(True, evidence, scene.number))
        return Result()
