"""report.json of ``mobilevd evaluate``: figures with their units and intervals, and the protocol they are valid under.

**Keeps** a report of another layout is refused, and two reports are compared under one protocol only
(``tests/evaluation/test_report.py``).
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from mobilevd.artifacts import write_json
from mobilevd.errors import IntegrityError
from mobilevd.evaluation import fingerprint
from mobilevd.evaluation.fingerprint import Fingerprint

FEW = 256  # clips; with 64, FVD's bias is larger than a known distance of 32 features (benchmarks/README.md)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Strict):
    """One figure; ``low`` and ``high`` end its 95 % interval over clips, None where there is none.

    ``measured`` is False for what was extrapolated.
    """

    value: FiniteFloat
    unit: str
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    measured: bool = True


class Report(_Strict):
    """The whole file; ``Report.model_json_schema()`` is its schema, ``schema_version`` counts its layouts.

    ``judged``: digest of the bundle or base that made the clips, None where they came as files.
    """

    schema_version: Literal[1] = 1
    fingerprint: Fingerprint
    fingerprint_sha256: str
    figures: dict[str, Figure]
    judged: str | None = None

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, self.model_dump(mode="json"))


def make(protocol: Fingerprint, figures: dict[str, Figure], judged: str | None = None) -> Report:
    """A report of this layout."""
    return Report(fingerprint=protocol, fingerprint_sha256=protocol.digest, figures=figures, judged=judged)


def read(path: Path) -> Report:
    """The report at ``path``. Errors: IntegrityError when it is missing, of another layout, or edited."""
    try:
        report = Report.model_validate_json(Path(path).read_bytes())
    except FileNotFoundError:
        raise IntegrityError("There is no such report", got=str(path), allowed="report.json of an evaluation") from None
    except ValidationError as error:
        fields = "; ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise IntegrityError("This is no report of ours", got=fields, allowed="its schema", where=str(path)) from None
    if report.fingerprint_sha256 != report.fingerprint.digest:
        raise IntegrityError("The report's fingerprint was changed", got=report.fingerprint.digest, where=str(path))
    return report


def label(name: str, figure: Figure) -> str:
    """A figure's name in a table: what was not measured is called so."""
    return name if figure.measured else f"{name} (not measured)"


def notes(made: Report) -> list[str]:
    """What the number of clips keeps the figures from saying; nothing where they are enough."""
    clips, kvd = made.fingerprint.clips, made.figures.get("kvd")
    told = few(clips)
    if kvd is not None and kvd.low is not None and kvd.low <= 0 <= kvd.high:
        told.append(f"kvd: 0 lies in its interval, so {clips} clips do not tell the sets apart by it")
    return told


def few(clips: int) -> list[str]:
    """What to know of FVD over so few clips; nothing where they are enough."""
    told = f"{clips} clips are few: FVD is biased upwards, comparable only with as many; take {FEW} or more"
    return [told] if clips < FEW else []


def against(one: Report, other: Report) -> list[dict[str, Any]]:
    """One row per figure: both values and their difference. Errors: IntegrityError naming the fields that differ."""
    fingerprint.require_same(one.fingerprint.model_dump(mode="json"), other.fingerprint.model_dump(mode="json"))
    both = [name for name in one.figures if name in other.figures]
    pairs = [(name, one.figures[name].value, other.figures[name].value) for name in both]
    return [{"figure": name, "this": this, "other": that, "difference": this - that} for name, this, that in pairs]
