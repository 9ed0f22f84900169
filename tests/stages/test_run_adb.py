"""The phone bundle's script for a plugged-in phone, against an ``adb`` that copies and runs on this machine."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mobilevd.stages.phone_bundle import script

ADB = """#!/bin/sh
here() { echo "$1" | sed "s#/data/local/tmp#$PHONE#g"; }
what=$1; shift
case $what in
get-state) [ -n "${GONE:-}" ] && { echo "error: no devices/emulators found" >&2; exit 1; }; echo device ;;
push) eval "last=\\${$#}"; there=$(here "$last")
    while [ $# -gt 1 ]; do cp -r "$1" "$there"; shift; done ;;
pull) cp -r "$(here "$1")" "$2" ;;
shell) sh -c "$(here "$1")" ;;
esac
"""
RUNNER = """#!/bin/sh
test -f c.bin && test -f libQnnHtpV75Skel.so || exit 3
while [ $# -gt 0 ]; do [ "$1" = --output_dir ] && out=$2; shift; done
mkdir -p "$out/Result_0" && cp "${ANSWER:-sample/latents.raw}" "$out/Result_0/latents.raw"
"""
SDK = {
    "bin/aarch64-android": ("qnn-net-run",),
    "lib/aarch64-android": ("libQnnHtp.so", "libQnnSystem.so", "libQnnHtpV75Stub.so"),
    "lib/hexagon-v75/unsigned": ("libQnnHtpV75Skel.so",),
}


@pytest.fixture
def run(tmp_path):
    """The script with the variables that are given, in a bundle's folder ``npu``."""
    npu, tools, sdk = tmp_path / "npu", tmp_path / "tools", tmp_path / "sdk"
    for folder in (npu / "sample", tools, tmp_path / "phone", *(sdk / name for name in SDK)):
        folder.mkdir(parents=True)
    for folder, names in SDK.items():
        for name in names:
            (sdk / folder / name).write_text(RUNNER)
    (tools / "adb").write_text(ADB)
    (tools / "adb").chmod(0o755)
    (tools / "python3").symlink_to(sys.executable)
    (npu / "run_adb.sh").write_text(script("c.bin", "the compiler 2.7.0"))
    for name in ("c.bin", "input_list.txt"):
        (npu / name).write_text("")
    np.arange(1, 9, dtype="<f4").tofile(npu / "sample" / "latents.raw")
    off = (np.arange(1, 9) * 1.01).astype("<f4")
    off.tofile(tmp_path / "off.raw")

    def run(path=f"{tools}:/usr/bin:/bin", **variables) -> subprocess.CompletedProcess:
        told = {"PATH": path, "PHONE": str(tmp_path / "phone"), "QNN_SDK_ROOT": str(sdk)} | variables
        pythons = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        script = ["/bin/sh", str(npu / "run_adb.sh")]
        return subprocess.run(script, capture_output=True, text=True, check=False, env=pythons | told)

    return run


def test_what_the_phone_computes_is_compared_and_nothing_is_left_on_it_nor_in_the_bundle(run, tmp_path):
    before = sorted(path.name for path in (tmp_path / "npu").rglob("*"))
    done = run(ANSWER=str(tmp_path / "off.raw"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "40.0 dB to ONNX Runtime on a CPU"
    assert list((tmp_path / "phone").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "npu").rglob("*")) == before


def test_a_second_run_is_compared_by_its_own_output(run, tmp_path):
    assert run(ANSWER=str(tmp_path / "off.raw")).returncode == 0
    (np.arange(1, 9) * 1.001).astype("<f4").tofile(tmp_path / "off.raw")
    assert run(ANSWER=str(tmp_path / "off.raw")).stdout.splitlines()[-1].startswith("60.0 dB")


@pytest.mark.parametrize(("factor", "said"), [(0.0, "0.0 dB"), (1.1, "20.0 dB"), (np.nan, "nan dB")])
def test_a_phone_that_computes_something_else_fails_and_nothing_is_left_on_it(run, tmp_path, factor, said):
    (np.arange(1, 9) * factor).astype("<f4").tofile(tmp_path / "off.raw")
    done = run(ANSWER=str(tmp_path / "off.raw"))
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1].startswith(said)
    assert "computes something else: at least 25 dB" in done.stderr
    assert list((tmp_path / "phone").iterdir()) == []


def test_what_fails_on_the_phone_is_taken_off_it(run, tmp_path):
    assert run(ANSWER="no.raw").returncode != 0
    assert list((tmp_path / "phone").iterdir()) == []


def test_the_script_says_what_compiled_its_binary(run, tmp_path):
    assert "binary (the compiler 2.7.0)" in (tmp_path / "npu" / "run_adb.sh").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"QNN_SDK_ROOT": ""}, "must name the folder of the AI Engine Direct SDK"),
        ({"QNN_SDK_ROOT": "/nowhere"}, "no bin/aarch64-android/qnn-net-run in /nowhere"),
        ({"GONE": "1"}, "no phone answers: see adb devices"),
        ({"path": "BARE"}, "adb is not on PATH"),
        ({"ANSWER": "no.raw"}, "no.raw"),
    ],
)
def test_what_is_missing_is_named_and_ends_the_script(run, given, said, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "dirname").symlink_to(shutil.which("dirname"))
    done = run(**{name: value.replace("BARE", str(tmp_path / "bare")) for name, value in given.items()})
    assert done.returncode != 0
    assert said in done.stderr
