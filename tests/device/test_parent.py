"""What computes for a process ends with it, however that ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import living
import numpy as np
import one_step
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no other system ends a process with its parent")
CHILD = """
import sys
import time
from mobilevd.device.parent import end_with

end_with(int(sys.argv[1]))
print("computing", flush=True)
time.sleep(100)
"""
PARENT = f"""
import os
import subprocess
import sys

with subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], stdout=subprocess.PIPE, text=True) as child:
    print(child.stdout.readline().strip(), child.pid, flush=True)
    child.wait()
"""
PROFILING = """
import sys
import numpy as np
from pathlib import Path
from mobilevd.device.profile import profile
from mobilevd.device.targets import HOST_CPU

profile(Path(sys.argv[1]), dict(np.load(sys.argv[2])), HOST_CPU, warmup=0, repeats=5, sustain_s=300.0)
"""


def started(code, *words):
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)


def test_a_process_ends_with_the_one_that_started_it_however_that_ends():
    with started(PARENT) as parent:
        said, child = parent.stdout.readline().split()
        assert said == "computing"
        parent.kill()
    assert living.ends(child)


def test_a_process_whose_parent_had_ended_before_it_could_ask_does_not_begin():
    with started(CHILD, str(os.getppid())) as orphan:
        assert orphan.stdout.read() == ""
    assert orphan.returncode == 1


def test_the_measured_process_ends_with_a_profile_that_is_killed(graphs, tmp_path):
    np.savez(tmp_path / "feed.npz", **one_step.feeds(1)[0])
    with started(PROFILING, str(graphs.float_path), str(tmp_path / "feed.npz")) as profiling:
        child, until = [], time.monotonic() + 120
        while not child:
            assert profiling.poll() is None
            assert time.monotonic() < until
            child = [pid for pid in children(profiling.pid) if "mobilevd.device.bench" in command(pid)]
            time.sleep(0.05)
        time.sleep(2)  # past its first lines
        profiling.kill()
    assert living.ends(child[0])


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def command(pid):
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.is_file() else ""
