"""A session with Qualcomm AI Hub: its token, its devices, and jobs that a later process finds again by their id.

**Source** the service's own client, qai-hub, and the client's own configuration file, or two variables. **Keeps** an id
is written down before anything is waited for, and one that the service no longer knows stops nothing; the token reaches
no error, file or line (``tests/device/test_hub.py``).
"""

import configparser
import difflib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import qai_hub
from botocore.exceptions import BotoCoreError, ClientError
from qai_hub.api_utils import get_config_path
from qai_hub.public_rest_api import DEFAULT_HUB_API_URL, APIException, ClientConfig

from mobilevd.artifacts import seal, write_json
from mobilevd.errors import EffectError, MobileVDError
from mobilevd.progress import say

TOKEN, URL = "QAIHUB_API_TOKEN", "QAIHUB_API_URL"  # ours; what a cluster's secrets can set
CONFIGURE = f"{TOKEN}, or `qai-hub configure --api_token …`, which writes ~/.qai_hub/client.ini (or $QAIHUB_CLIENT_INI)"
STEP, JOBS = "step-{:02d}", "jobs.json"
POLL_S = 10.0
GONE, EXPIRED = (403, 404, 410), "expired dataset"  # what the service answers, and the client without asking it
BOX = str.maketrans(dict.fromkeys("┌─┐└┘|", " "))  # the client draws a box around its messages


class GoneError(MobileVDError):
    """What was asked for is not at the service, or not for this account; the network and the token are well."""


def configured() -> bool:
    """Whether a token is on this machine, in $QAIHUB_API_TOKEN or in the client's configuration file."""
    return bool(os.environ.get(TOKEN)) or Path(get_config_path()).is_file()


def _of_environment() -> ClientConfig | None:
    """The client's configuration by $QAIHUB_API_TOKEN and $QAIHUB_API_URL; without a token its own file's."""
    url = os.environ.get(URL) or DEFAULT_HUB_API_URL
    token = os.environ.get(TOKEN)
    return ClientConfig(api_url=url, web_url=url, api_token=token, verbose=False) if token else None


class Hub:
    """One client, and the ids of the jobs of one measurement."""

    def __init__(self, folder: Path, of: dict[str, str], timeout_s: float, poll_s: float = POLL_S):
        """Take up the ids that lie in ``folder`` if they are of the same measurement.

        Args:
            of: whatever the jobs depend on, by name; ids of anything else are passed over.
            timeout_s: how long each job is waited for.
        Errors: MobileVDError when the configuration cannot be read.
        """
        self.client, self._token = qai_hub.Client(_of_environment()), ""
        with self.plainly("read its configuration"):
            self._token = self.client.config.api_token
            of = of | {"service": self.client.config.api_url}
        self.client.set_verbose(False)
        self._folder, self._of, self._timeout_s, self._poll_s = Path(folder), of, timeout_s, poll_s
        self._ids, self._taken_up = self._read(), False

    def device(self, name: str) -> qai_hub.Device:
        """The device called ``name``, with its attributes. Errors: MobileVDError with the names that come near."""
        with self.plainly("say which devices it has"):
            if found := self.client.get_devices(name):
                return found[-1]
            known = sorted({device.name for device in self.client.get_devices()})
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:4]
        raise MobileVDError(
            "Qualcomm AI Hub has no such device",
            got=name,
            allowed=f"{', '.join(near)} (of {len(known)}; `qai-hub list-devices` shows all)",
            where="profile.devices in the recipe",
        )

    def upload(self, path: Path) -> qai_hub.Model:
        """Send a graph, with the weights that lie beside it; called inside of ``finished``."""
        data = path.with_name(path.name + ".data")
        if not data.is_file():
            return self.client.upload_model(str(path), name=path.stem)
        with TemporaryDirectory(prefix="upload-") as aside:  # the client takes a folder of one graph and its weights
            folder = Path(aside) / path.name
            folder.mkdir()
            for file in (path, data):
                (folder / file.name).symlink_to(file.resolve())
            return self.client.upload_model(str(folder), name=path.stem)

    def finished(self, kind: str, submit: Callable[[], qai_hub.Job]) -> qai_hub.Job:
        """The job of this ``kind`` once it succeeded; it is submitted unless one of an earlier process goes on.

        Errors: MobileVDError for what the service refuses, EffectError for a job that fails or takes too long.
        """
        job = self._earlier(kind)
        self._taken_up |= job is not None
        if job is None:
            with self.plainly(f"take the {kind} job"):
                job = submit()
            self._note(kind, job.job_id)
        say(f"{kind}: {job.url}")
        self._wait(kind, job)
        return job

    def forget(self, gone: GoneError) -> None:
        """Take up no job of an earlier process any more, since its results are ``gone``.

        Errors: ``gone`` itself where no such job was taken up: new ones would not mend it.
        """
        if not self._taken_up:
            raise gone
        say(f"{gone.what} of an earlier run's jobs, which are submitted anew: {gone.got}")
        self._ids, self._taken_up = {}, False

    @contextmanager
    def plainly(self, what: str) -> Iterator[None]:
        """The client's errors as the project's own, in one line and without the token; GoneError: not there."""
        try:
            yield
        except MobileVDError:
            raise
        except configparser.Error as error:  # whose words may repeat the line with the token
            got, allowed = f"{get_config_path()}: {type(error).__name__}", "[api], and under it api_token and api_url"
            raise MobileVDError(f"Qualcomm AI Hub did not {what}", got=got, allowed=allowed, where=CONFIGURE) from None
        except (qai_hub.Error, APIException, BotoCoreError, ClientError, ValueError) as error:
            said = " ".join(str(error).translate(BOX).split())
            said = said.replace(self._token, "…") if self._token else said
            headline = f"Qualcomm AI Hub did not {what}"
            token = "token" in said or "configuration" in said
            kind = GoneError if _gone(error) else MobileVDError
            raise kind(headline, got=said, where=CONFIGURE if token else str(self._folder)) from None

    def _wait(self, kind: str, job: qai_hub.Job) -> None:
        until = time.monotonic() + self._timeout_s
        while not (status := self._status(kind, job)).finished:
            if time.monotonic() >= until:
                raise EffectError(
                    f"The {kind} job is not done yet",
                    got=f"{job.job_id}, {status.code}, after {self._timeout_s:.0f} s",
                    allowed="run the stage again: it goes on with this job",
                    where=f"profile.phone.timeout_minutes in the recipe; {job.url}",
                )
            time.sleep(self._poll_s)
        if status.failure:
            raise EffectError(
                f"The {kind} job failed at Qualcomm AI Hub",
                got=f"{job.job_id}: {status.message or 'no reason given'}",
                allowed="run the stage again: it submits a new job",
                where=job.url,
            )

    def _status(self, kind: str, job: qai_hub.Job) -> qai_hub.JobStatus:
        with self.plainly(f"say how the {kind} job {job.job_id} is"):
            return job.get_status()

    def _earlier(self, kind: str) -> qai_hub.Job | None:
        """A job that an earlier process submitted, that has not failed, and that the service still knows."""
        if (job_id := self._ids.get(kind)) is None:
            return None
        try:
            with self.plainly(f"find the {kind} job {job_id}"):
                job = self.client.get_job(job_id)
            return None if self._status(kind, job).failure else job
        except GoneError as gone:
            say(f"{gone.what} of an earlier run; it is submitted anew: {gone.got}")
            return None

    def _note(self, kind: str, job_id: str) -> None:
        """Write the ids down, as a new checkpoint of the stage: one that is on S3 already is not sent again.

        The ids of later jobs, which hung on an older one of this kind, go, and older checkpoints with them.
        """
        kinds = list(self._ids)
        before = kinds[: kinds.index(kind)] if kind in kinds else kinds
        self._ids = {name: self._ids[name] for name in before} | {kind: job_id}
        older = self._steps()
        last = int(older[-1].name.rpartition("-")[2]) if older else 0
        folder = self._folder / STEP.format(last + 1)
        write_json(folder / JOBS, {"of": self._of, "ids": list(self._ids.items())})
        seal(folder)
        for other in older:
            shutil.rmtree(other)

    def _read(self) -> dict[str, str]:
        for folder in reversed(self._steps()):
            noted = json.loads((folder / JOBS).read_text(encoding="utf-8"))
            if noted["of"] == self._of:
                return dict(noted["ids"])
        return {}

    def _steps(self) -> list[Path]:
        return sorted(path.parent for path in self._folder.glob(f"step-*/{JOBS}"))


def _gone(error: Exception) -> bool:
    """Whether the service has not what it was asked for: by its status, which the client keeps beside its own words.

    A refused token (401), an error of the service or of a store beside it, and a cut line are no such answer.
    """
    if not isinstance(error, qai_hub.UserError):
        return False
    return getattr(error.__context__, "status_code", None) in GONE or EXPIRED in str(error)
