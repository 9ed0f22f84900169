"""The one door to a phone that is plugged in: ``adb`` on PATH, one phone, commands that end or are cut off.

**Keeps** the phone that is meant, and no Android emulator, is spoken to; what adb says is in the error
(``tests/device/test_plugged.py``).
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from mobilevd.errors import EffectError, MobileVDError

ADB, SERIAL, READY = "adb", "ANDROID_SERIAL", "device"
SHORT_S = 30.0
MEND = {
    "unauthorized": "answer the question that the phone shows (USB debugging from this computer)",
    "offline": "plug it in again, or `adb reconnect`",
    "no permissions": "this user may not open the USB device: see `adb devices` and udev's rules",
}


def installed() -> bool:
    """Whether ``adb`` is on PATH."""
    return shutil.which(ADB) is not None


class Phone:
    """One phone. Errors: MobileVDError where none, another, or more than one could be meant, or it is no phone."""

    def __init__(self, serial: str = "", timeout_s: float = 3600.0):
        """``serial``: which one; $ANDROID_SERIAL, or the only one, when empty. ``timeout_s``: of one command."""
        self._timeout_s = timeout_s
        self.serial = _chosen(_listed(), serial or os.environ.get(SERIAL, ""))
        asked = ("ro.product.model", "ro.soc.model", "ro.build.version.release", "ro.boot.qemu")
        model, chip, system, emulated = (self.shell("getprop", name, timeout_s=SHORT_S).strip() for name in asked)
        if emulated == "1":
            raise MobileVDError("This is an emulator of a phone", got=self.serial, allowed="a phone", where=ADB)
        self.device = {"processor": chip or "not told", "system": f"{model or 'not told'}, Android {system}"}

    def shell(self, *words: str, timeout_s: float | None = None) -> str:
        """Run a command there; what it printed. Errors: EffectError when it fails, hangs, or the phone is gone."""
        return self._run("shell", shlex.join(words), timeout_s=timeout_s)

    def push(self, source: Path, there: str) -> None:
        """Copy one file to the path ``there``."""
        self._run("push", str(source), there)

    def pull(self, there: str, target: Path) -> Path:
        """Copy one file from the phone."""
        self._run("pull", there, str(target))
        return target

    def _run(self, *words: str, timeout_s: float | None = None) -> str:
        command, limit = [ADB, "-s", self.serial, *words], timeout_s or self._timeout_s
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired:
            raise EffectError(
                "The phone did not answer", got=f"{limit:g} s of {words[0]}", where=f"{ADB} -s {self.serial}"
            ) from None
        if done.returncode != 0:
            said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
            raise EffectError(
                "A command on the phone failed, or the phone was unplugged",
                got=f"exit {done.returncode}: {said}",
                allowed="the phone plugged in until the end; the stage may be run again",
                where=shlex.join(command),
            )
        return done.stdout


def _listed() -> dict[str, str]:
    """Serial → state of everything that is plugged in. Lines without a tab are adb's own talk, of its server."""
    how = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": SHORT_S}
    try:
        done = subprocess.run([ADB, "devices"], check=False, **how)
    except subprocess.TimeoutExpired:
        what, allowed = "adb does not answer", "an answer at once; `adb kill-server` ends the server that hangs"
        raise MobileVDError(what, got=f"nothing in {SHORT_S:g} s", allowed=allowed, where="adb devices") from None
    if done.returncode != 0:
        raise MobileVDError("adb does not work", got=done.stderr.strip(), where="adb devices")
    rows = [[word.strip() for word in line.partition("\t")[::2]] for line in done.stdout.splitlines()]
    return {serial: state for serial, state in rows if serial and state}


def _chosen(found: dict[str, str], serial: str) -> str:
    ready = [name for name, state in found.items() if state == READY]
    if serial and found.get(serial) == READY:
        return serial
    if not serial and len(ready) == 1:
        return ready[0]
    if not serial and len(ready) > 1:
        allowed = f"one of them: adb:{ready[0]} in profile.devices, or ${SERIAL}"
        raise MobileVDError("More than one phone is plugged in", got=", ".join(ready), allowed=allowed)
    shown = ", ".join(f"{name} ({state})" for name, state in found.items()) or "none"
    wanted = {serial: found[serial]} if serial in found else found if not serial else {}
    allowed = "; ".join(how for state, how in MEND.items() if any(s.startswith(state) for s in wanted.values()))
    what = f"The phone {serial} cannot be used" if serial else "No phone can be used"
    raise MobileVDError(what, got=shown, allowed=allowed or "a phone with USB debugging", where="adb devices")
