"""What every section of a recipe is, and the kinds of numbers in it.

Keeps: what is infinite or no number is refused, whichever key it stands at (``tests/test_settings.py``).
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Below1 = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Several = Field(min_length=1)


def _named_once(named: tuple[str, ...]) -> tuple[str, ...]:
    if again := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"each of them once, not {', '.join(again)} again")
    return named


Once = AfterValidator(_named_once)


class Section(BaseModel):
    """A frozen part of a recipe; strings are never read as numbers (YAML 1.1 reads ``1e-5`` as a string)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
