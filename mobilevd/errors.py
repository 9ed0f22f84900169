"""Errors with a headline: what is wrong, what was got, what is allowed, and where to change it."""

from mobilevd.secrecy import sanitised


class MobileVDError(ValueError):
    """A problem the user can mend. The message is whole, never needs a traceback, and shows no address's password.

    Args:
        what: the headline, without a full stop.
        got: the offending value, or None when there is none to show.
        allowed: what would have been accepted.
        where: the file, recipe key, option or command that changes it.
    """

    def __init__(self, what: str, *, got: object = None, allowed: str | None = None, where: str | None = None):
        got, allowed, where = (sanitised(told) if isinstance(told, str) else told for told in (got, allowed, where))
        self.what, self.got, self.allowed, self.where = what, got, allowed, where
        lines = [what]
        lines += [f"  got:     {got!r}" if not isinstance(got, str) else f"  got:     {got}"] if got is not None else []
        lines += [f"  allowed: {allowed}"] if allowed else []
        lines += [f"  where:   {where}"] if where else []
        super().__init__(sanitised("\n".join(lines)))


class RecipeError(MobileVDError):
    """A recipe that cannot be run; raised before any step starts."""


class DataError(MobileVDError):
    """Data that drifted, cannot be used, or failed its expectations."""


class IntegrityError(MobileVDError):
    """A file whose digest, shape or name is not the one that was written down."""


class SurgeryError(MobileVDError):
    """An edit that this network, or this order of edits, does not allow."""


class EffectError(MobileVDError):
    """A stage whose declared effect was not measured afterwards."""


class PromotionError(MobileVDError):
    """A promotion or a rollback that was refused, or lost to another one; nothing was switched."""
