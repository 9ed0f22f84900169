"""A phone that is none: an ``adb`` that runs what it is told in a folder of this machine, and the tool that it is told
to run, which runs the pushed graph on the pushed inputs by ONNX Runtime. Both speak as the real ones do; the times that
the tool writes down are planted: 2 ms, 4 ms, 6 ms and so on.

``adb.json`` in the folder says what is plugged in, and after how many commands the phone is lost."""

import json
import os
import stat
import sys
from pathlib import Path

PROPERTIES = {"ro.product.model": "23116PN5BC", "ro.soc.model": "SM8650", "ro.build.version.release": "14"}

ADB = """
import json, pathlib, shutil, subprocess, sys
home = pathlib.Path(__file__).resolve().parents[1]
state = json.loads((home / "adb.json").read_text())
def end(said):
    print(said, file=sys.stderr)
    sys.exit(1)
words = sys.argv[1:]
if words == ["devices"]:
    print("List of devices attached")
    print("".join(f"{serial}\\t{how}\\n" for serial, how in state["devices"].items()))
    sys.exit(0)
assert words[0] == "-s"
serial, what, rest = words[1], words[2], words[3:]
with open(home / "asked.txt", "a") as asked:
    print(what, *rest, file=asked)
count = len((home / "asked.txt").read_text().splitlines())
if state["devices"].get(serial) != "device" or count > state["lost_after"]:
    end(f"adb: device '{serial}' not found")
root = home / "phone"
def here(text):
    return text.replace("/data/local/tmp", str(root))
if what == "push":
    if not (target := pathlib.Path(here(rest[1]))).parent.is_dir():
        end(f"adb: error: failed to copy '{rest[0]}' to '{rest[1]}': remote couldn't create file")
    shutil.copyfile(rest[0], target)
elif what == "pull":
    shutil.copyfile(here(rest[0]), rest[1])
elif rest[0].startswith("getprop "):
    print(state["properties"].get(rest[0].split()[1], ""))
else:
    sys.exit(subprocess.run(["sh", "-c", here(rest[0])]).returncode)
"""

TOOL = """
import argparse, pathlib, sys, time
import onnx, onnxruntime as ort
from onnx import numpy_helper
options = argparse.ArgumentParser()
for flag in ("-e", "-i", "-m", "-p"):
    options.add_argument(flag)
options.add_argument("-r", type=int)
options.add_argument("-t", type=float)
options.add_argument("model", type=pathlib.Path)
options.add_argument("result")
given = options.parse_args()
if given.e == "qnn" and "backend_path|libQnnHtp.so" not in given.i:
    sys.exit("no backend")
settings = ort.SessionOptions()
settings.intra_op_num_threads = 1
if given.p:
    settings.enable_profiling, settings.profile_file_prefix = True, given.p
began = time.perf_counter()
session = ort.InferenceSession(given.model, settings)
print(f"Session creation time cost: {time.perf_counter() - began:g} s")
feed = {}
for file in sorted((given.model.parent / "test_data_set_0").glob("input_*.pb")):
    tensor = onnx.TensorProto.FromString(file.read_bytes())
    feed[tensor.name] = numpy_helper.to_array(tensor)
def run():
    began = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - began
print(f"First inference time cost: {round(run() * 1e3)} ms")
seconds = []
while (len(seconds) < given.r) if given.m == "times" else (sum(seconds) < given.t):
    seconds.append(run())
with open(given.result, "a") as file:
    for index in range(len(seconds)):
        file.write(f"{given.model.parent.name},{0.002 * (index + 1):g},{50_000_000},98,{index}\\n")
if given.p:
    session.end_profiling()
"""


class Android:
    """``adb`` and the runner's folder under ``folder``; what is plugged in may be changed."""

    def __init__(self, folder: Path):
        self.folder, self.runner = folder, folder / "runner"
        (folder / "phone").mkdir(parents=True)
        _script(folder / "bin" / "adb", ADB)
        _script(self.runner / "onnxruntime_perf_test", TOOL)
        self.set()

    def set(self, devices: dict | None = None, lost_after: int = 10**6, **properties: str) -> None:
        """Serial → state; the phone is lost after so many commands; properties beside the usual ones."""
        devices = {"8a1c": "device"} if devices is None else devices
        state = {"devices": devices, "lost_after": lost_after, "properties": PROPERTIES | properties}
        (self.folder / "adb.json").write_text(json.dumps(state))
        (self.folder / "asked.txt").write_text("")

    def plug(self, patch) -> None:
        """Put it on PATH and name the runner, through pytest's ``monkeypatch``."""
        patch.setenv("PATH", f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("MOBILEVD_ANDROID_RUNNER", str(self.runner))
        patch.delenv("ANDROID_SERIAL", raising=False)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked.txt").read_text().splitlines()

    @property
    def left(self) -> list[Path]:
        return list((self.folder / "phone").iterdir())


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
