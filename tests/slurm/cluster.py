"""A Slurm of two nodes on this machine, as root: `python -m tests.slurm.cluster start FOLDER`, `… stop FOLDER`.

All of it (configuration, spool, sockets, logs, process ids) is in the folder, so that nothing of the machine's own is
touched. The nodes are two slurmd of one host, each with a port of its own. Needs Debian's packages slurm-wlm and munge.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}
NODES = ("n1", "n2")
STARTED: list[subprocess.Popen] = []
CONFIG = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
KillWait=1
InactiveLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=1000
PartitionName=tiny Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> list[str]:
    """The Debian packages that are not installed."""
    return sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})


def check(*_: Path) -> None:
    """Say what is missing here, and leave."""
    if absent := " ".join(missing()):
        raise SystemExit(f"Slurm's tests need the Debian packages: apt-get install {absent}")
    if os.geteuid():
        raise SystemExit("Slurm's tests need root: the daemons start jobs in their users' names")


def _ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment(folder: Path) -> dict[str, str]:
    """In which Slurm's commands speak to this cluster."""
    return {"SLURM_CONF": str(folder / "slurm.conf")}


def command(folder: Path, *words: str, check: bool = True) -> str:
    """One of Slurm's commands; what it prints."""
    done = subprocess.run(words, env=os.environ | environment(folder), capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def _daemon(folder: Path, name: str, *words: str) -> None:
    # In the foreground, in a session of its own: its process group is what dies with a node.
    with (folder / f"{name}.out").open("ab") as log:
        started = subprocess.Popen(
            words,
            env=os.environ | environment(folder),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    STARTED.append(started)
    (folder / f"{name}.started").write_text(str(started.pid))


def start_node(folder: Path, node: str) -> None:
    _daemon(folder, node, "slurmd", "-D", "-N", node)


def start_controller(folder: Path) -> None:
    _daemon(folder, "slurmctld", "slurmctld", "-D")


def start(folder: Path) -> None:
    """Start the daemons, and wait until both nodes are idle."""
    check()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("state", *NODES):
        (folder / name).mkdir(exist_ok=True)
    controller, *ports = _ports(3)
    names = dict(zip(NODES, ports, strict=True))
    text = CONFIG.format(host=socket.gethostname().split(".")[0], folder=folder, controller=controller, **names)
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = [
        f"--{name}={folder}/munge.{name.split('-')[0]}"
        for name in ("socket", "key-file", "log-file", "pid-file", "seed-file")
    ]
    _daemon(folder, "munged", "munged", "--foreground", "--force", *files)
    _until(lambda: (folder / "munge.socket").exists(), "munged")
    start_controller(folder)
    for node in NODES:
        start_node(folder, node)
    _until(lambda: states(folder) == dict.fromkeys(NODES, "idle"), "the nodes", 60)


def states(folder: Path) -> dict[str, str]:
    """Each node's state."""
    rows = command(folder, "sinfo", "--noheader", "--Node", "--format=%N %T", check=False).split("\n")
    return dict(row.split() for row in rows if row)


def _until(true, what: str, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise RuntimeError(f"Slurm: {what} did not come up in {seconds:.0f} s")
        time.sleep(0.2)


def _of_node(folder: Path, node: str) -> list[int]:
    """slurmd, the jobs that it started, and the slurmstepd above them, which have left it."""
    marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={folder}/slurm.conf".encode()}
    found = [int((folder / f"{node}.started").read_text(encoding="utf-8"))]
    for pid, environment in _environments():
        with contextlib.suppress(OSError):
            if marks <= environment:
                parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                found.append(pid)
                if Path(f"/proc/{parent}/comm").read_text(encoding="utf-8").strip() == "slurmstepd":
                    found.append(parent)
    return found


def _environments() -> Iterator[tuple[int, set[bytes]]]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            yield int(process.name), set((process / "environ").read_bytes().split(b"\0"))


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_node(folder: Path, node: str) -> None:
    """The node dies: its slurmd, slurmstepd and jobs at once: none lives to tell that another was killed."""
    dying = _of_node(folder, node)
    _signal(dying, signal.SIGSTOP)
    _signal(dying, signal.SIGKILL)


def requeue(folder: Path, job: str) -> None:
    """An operator requeues a job of an array, whose processes die at once: Slurm leaves them five seconds or more, in
    which a short run would end.
    """
    array, task = job.split("_")
    words = (f"SLURM_CONF={folder}/slurm.conf", f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}")
    marks = {word.encode() for word in words}
    dying = [pid for pid, environment in _environments() if marks <= environment]
    command(folder, "scontrol", "requeue", job)
    _signal(dying, signal.SIGKILL)


def hang_node(folder: Path, node: str, seconds: float) -> None:
    """The node's slurmd, slurmstepd and jobs stand still, and go on afterwards as if nothing had been."""
    standing = _of_node(folder, node)
    _signal(standing, signal.SIGSTOP)
    time.sleep(seconds)
    _signal(standing, signal.SIGCONT)


def kill_daemon(folder: Path, name: str) -> None:
    """One daemon dies; what it started lives on."""
    _signal([int((folder / f"{name}.started").read_text(encoding="utf-8"))], signal.SIGKILL)


def stop(folder: Path) -> None:
    """End all that was started here, jobs and all."""
    command(folder, "scancel", "--user=root", check=False)
    for node in NODES:
        kill_node(folder, node)
    for name in ("slurmctld", "munged"):
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int((folder / f"{name}.started").read_text(encoding="utf-8")), signal.SIGTERM)
    while STARTED:
        STARTED.pop().wait(20)


if __name__ == "__main__":
    what, *where = sys.argv[1:]
    {"check": check, "start": start, "stop": stop}[what](*(Path(folder).resolve() for folder in where))
