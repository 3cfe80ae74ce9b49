"""What this machine is, and what else it is doing: the two things a figure means nothing without."""

import os
import pathlib
import re
import time

CPUINFO = pathlib.Path("/proc/cpuinfo")
CACHES = pathlib.Path("/sys/devices/system/cpu/cpu0/cache")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
IDLE_FIELDS = (3, 4)  # of the cpu line of /proc/stat: idle, iowait


def all_cpus():
    return len(os.sched_getaffinity(0))


def cpuinfo_field(name, text=None):
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", CPUINFO.read_text() if text is None else text, re.M)
    return match.group(1).strip() if match else ""


def cpu_flags():
    return set(cpuinfo_field("flags").split())


def machine_name():
    """A folder name: the processor's name, its family-model-stepping (clouds hide names), and the number of cores."""
    name = re.sub(r"\((?:r|tm)\)|\bcpu\b|@.*$", " ", (cpuinfo_field("model name") or os.uname().machine).lower())
    signature = [cpuinfo_field(field) for field in ("cpu family", "model", "stepping")]
    words = re.findall(r"[a-z0-9]+", name) + [s for s in signature if s] + [f"{all_cpus()}cpu"]
    return "-".join(words)


def last_level_cache_bytes():
    """The largest cache that serves one core; 0 when the kernel does not say."""
    sizes = [0]
    for path in CACHES.glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip())
        if match:
            sizes.append(int(match.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[match.group(2)])
    return max(sizes)


def busy_seconds():
    """Processor seconds all programs of this machine have used since it started."""
    ticks = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(ticks) - sum(ticks[i] for i in IDLE_FIELDS)) / TICKS_PER_SECOND


def process_seconds(pid):
    """Processor seconds of a process and the children it has waited for."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_SECOND


class OtherLoad:
    """Cores kept busy by others than the processes `pids`, over the time of a `with` block."""

    def __init__(self, pids):
        self.pids = pids
        self.cores = 0.0

    def _counters(self):
        return time.monotonic(), busy_seconds() - sum(process_seconds(pid) for pid in self.pids)

    def __enter__(self):
        self.start = self._counters()
        return self

    def __exit__(self, *_):
        wall, busy = (end - start for end, start in zip(self._counters(), self.start))
        self.cores = max(0.0, busy / wall) if wall > 0 else 0.0


def memory_available_bytes():
    """What programs could still take without pushing anything out that is in use."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return int(match.group(1)) << 10
