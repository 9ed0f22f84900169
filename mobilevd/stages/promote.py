"""Promote: candidate → champion on a stored passing verdict, and back; whatever is in doubt is refused.

**Keeps** a refusal leaves ledger, aliases and events as they were; aliases and events follow the ledger and never lead
(``tests/stages/test_promote.py``).
"""

import getpass
import json
import os
import secrets
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mobilevd import alerts
from mobilevd.artifacts import file_sha256
from mobilevd.errors import IntegrityError, MobileVDError, PromotionError
from mobilevd.progress import say
from mobilevd.registry import acceptance, versions
from mobilevd.registry.ledger import CHAMPION, PREVIOUS, Checked, Entry, Ledger, Wanted, champion, projection, standing
from mobilevd.secrecy import sanitised
from mobilevd.settings import Clip
from mobilevd.stages import lineage

PROMOTE, ROLLBACK = "promote", "rollback"
Smoke = Callable[[Path], Any]


def animate(folder: Path) -> None:
    """Animate a grey image with the bundle. Errors: EffectError if it cannot."""
    from mobilevd.stages import register

    settings = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
    register.smoke(folder, Clip(**settings["clip"]))


def run(model: str, wanted: Wanted, smoke: Smoke = animate) -> Entry:
    """Check, switch, announce: what the flow does in steps. Errors: as those three."""
    entry = switch(model, check(model, wanted, smoke))
    announce(model, entry)
    return entry


def ledger(model: str) -> Ledger:
    """The ledger of one model. Errors: MobileVDError when its place is not known."""
    return Ledger(versions.ledger_address(model))


def history(model: str) -> list[Entry]:
    """Every switch of one model, oldest first; none for one that is registered and never was promoted.

    Errors: MobileVDError when neither the ledger nor MLflow knows the model; as ``ledger``.
    """
    entries = ledger(model).history()
    if not entries:
        versions.require(model)
    return entries


def candidate(model: str, version: str | None, why: str) -> Wanted:
    """The promotion of ``version``, or of the newest one if it never was champion.

    Errors: PromotionError when there is nothing to promote; MobileVDError when there is no such version.
    """
    entries = ledger(model).history()
    number = (versions.find(model, version) if version else versions.newest(model)).number
    if number == champion(entries):
        raise PromotionError("This version is the champion already", got=number, allowed="another version")
    before = [entry.line for entry in entries if entry.to_version == number]
    if before and not version:
        allowed = f"a version that never was champion; `--version {number}` promotes this one again"
        raise PromotionError("There is no new candidate", got=before[-1], allowed=allowed, where="--version")
    return _wanted(PROMOTE, entries, number, why or "passed its gates")


def former(model: str, version: str | None, why: str) -> Wanted:
    """The rollback to ``version``, or to the champion before this one.

    Errors: PromotionError when there is none, or no reason is given.
    """
    if not why:
        raise PromotionError("A rollback needs a reason, for the ledger", allowed="a sentence", where="--why")
    entries = ledger(model).history()
    known = standing(entries)[:-1]
    number = version or (known[-1] if known else "no version")
    if number not in known:
        allowed = ", ".join(known) or "nothing: there was no champion before this one"
        raise PromotionError("There is no such version to roll back to", got=number, allowed=allowed, where="--version")
    return _wanted(ROLLBACK, entries, number, why)


def check(model: str, wanted: Wanted, smoke: Smoke = animate) -> Checked:
    """Re-hash the bundle, read the stored gate report, hold both against the lineage and the champion, run the model.

    Errors: MobileVDError of the kind that names the doubt; for a rollback PromotionError that offers the next good one.
    """
    entries = ledger(model).history()[: wanted.after]
    if wanted.action == PROMOTE:
        return _checked(model, wanted, entries, smoke)
    try:
        return _checked(model, wanted, entries, smoke)
    except MobileVDError as error:
        raise _with_an_offer(model, wanted, entries, smoke, error) from None


def check_description(version: versions.Version) -> None:
    """MLflow loads what its description says, so that has to be the registered one. Errors: IntegrityError."""
    noted, got = version.tags.get("mlmodel_sha256"), versions.description_sha256(version)
    if got != noted:
        what = f"MLflow's description of version {version.number} is not the one registered"
        raise IntegrityError(what, got=got, allowed=str(noted), where=f"{version.source}/MLmodel")


def switch(model: str, checked: Checked) -> Entry:
    """Write the entry, then let the aliases follow.

    Errors: PromotionError when another switch came first, and nothing was switched; MobileVDError when the switch was
    made and MLflow did not follow.
    """
    entry = ledger(model).append(checked)
    try:
        reconcile(model)
    except MobileVDError as error:
        raise _stands(entry, "its aliases are not set", str(error), "mobilevd registry reconcile") from None
    return entry


def reconcile(model: str) -> list[str]:
    """Make the aliases say what the ledger says; returns what was changed. Errors: MobileVDError."""
    written, changes = ledger(model), []
    history(model)  # a name that nobody knows is no fault of the store
    while True:
        entries, found = written.history(), versions.aliases(model)
        wanted = projection(entries)
        for alias in (CHAMPION, PREVIOUS):
            number = wanted.get(alias)
            if found.get(alias) != number:
                versions.point(model, alias, number)
                changes.append(f"{alias}: {found.get(alias, 'none')} → {number or 'none'}")
        if len(written.history()) == len(entries):  # a later switch may have set them before these lines did
            return changes


def announce(model: str, entry: Entry) -> None:
    """Tell $MOBILEVD_WEBHOOK, if it is set, of a switch that was made. Errors: MobileVDError if it is not taken."""
    try:
        facts = {"event": "mobilevd.champion", "model": model} | entry.model_dump(mode="json")
        alerts.post(f"{model}: {entry.line}", **facts)
    except (OSError, HTTPException) as error:
        raise _stands(
            entry, "the webhook did not take the event", f"{type(error).__name__}: {error}", alerts.WEBHOOK
        ) from None


def _wanted(action: str, entries: Sequence[Entry], number: str, why: str) -> Wanted:
    return Wanted(
        after=len(entries),
        token=secrets.token_hex(16),
        action=action,
        from_version=champion(entries),
        to_version=number,
        who=_who(),
        why=sanitised(why),
    )


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _checked(model: str, wanted: Wanted, entries: Sequence[Entry], smoke: Smoke) -> Checked:
    version = versions.find(model, wanted.to_version)
    say(f"{model} version {version.number}: reading digests, gate report and lineage")
    check_description(version)
    with versions.bundle(version) as folder:
        digest = _digest(version, entries)
        lineage.check_weights(folder, digest)
        with versions.gate_report(version) as stored:
            lineage.check_report(folder, stored)
        lineage.check_stages(folder)
        report = acceptance.passed_report(folder / lineage.REPORT, version.tags.get("recipe_digest", "none"))
        lineage.check_gates(folder)
        protocol = report.get("fingerprint", report.get("protocol"))
        if wanted.action == PROMOTE and entries:
            _check_protocol(protocol, entries[-1])
        say(f"{model} version {version.number}: animating one image")
        smoke(folder)
        sums = {"bundle_sha256": digest, "report_sha256": file_sha256(folder / lineage.REPORT)}
    return Checked(**wanted.model_dump(), **sums, protocol=protocol)


def _digest(version: versions.Version, entries: Sequence[Entry]) -> str:
    """The bundle's digest as it was noted at registration and at every switch to it."""
    noted = {version.tags.get("bundle_sha256")} | {e.bundle_sha256 for e in entries if e.to_version == version.number}
    if len(noted) > 1 or None in noted:
        got = ", ".join(sorted(map(str, noted)))
        raise IntegrityError(f"Version {version.number} has no digest of its own", got=got, allowed="one, and the same")
    return noted.pop()


def _check_protocol(protocol: Any, best: Entry) -> None:
    if best.protocol in (None, protocol):
        return
    mine, its = ({"protocol": p} if not isinstance(p, dict) else p for p in (protocol, best.protocol))
    differing = sorted(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
    raise PromotionError(
        f"The candidate was not scored as champion {best.to_version} was: {', '.join(differing)}",
        got="; ".join(f"{key} {mine.get(key, 'missing')}" for key in differing),
        allowed="; ".join(f"{key} {its.get(key, 'missing')}" for key in differing),
        where="score the candidate under the champion's protocol, and run the gates again",
    )


def _with_an_offer(
    model: str, wanted: Wanted, entries: Sequence[Entry], smoke: Smoke, error: MobileVDError
) -> PromotionError:
    others = [number for number in reversed(standing(entries)[:-1]) if number != wanted.to_version]
    good = next((number for number in others if _is_good(model, wanted, number, entries, smoke)), None)
    return PromotionError(
        f"Version {wanted.to_version} is refused, and nothing was switched: {error.what}",
        got=error.got,
        allowed=f"version {good}, which was checked and is whole"
        if good
        else "none: no other former champion is whole",
        where=f"mobilevd registry rollback --version {good}" if good else error.where,
    )


def _is_good(model: str, wanted: Wanted, number: str, entries: Sequence[Entry], smoke: Smoke) -> bool:
    try:
        _checked(model, wanted.model_copy(update={"to_version": number}), entries, smoke)
    except MobileVDError:
        return False
    return True


def _stands(entry: Entry, but: str, got: str, where: str) -> MobileVDError:
    return MobileVDError(f"Version {entry.to_version} is champion ({entry.line}), but {but}", got=got, where=where)
