"""The whole flow on S3 on this machine: data, datastore, artifacts and MLflow's store; killed, and resumed elsewhere.

``python infra/rehearsal.py`` (the smoke recipe; minutes). Two machines are played by two caches: the one
that resumes has nothing of the first but what lies on S3. Leaves nothing behind but the folder it names.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
import seaweed  # noqa: E402
import trackers  # noqa: E402

from mobilevd import remote  # noqa: E402

STORE, RUNS, DVC, PIN = "s3://bucket/metaflow", "s3://bucket/runs", "s3://bucket/dvc", "s3://bucket/pins/data.dvc"
KILLED_IN = "distill"


def main() -> int:
    """Push the data, run until a checkpoint of KILLED_IN is on S3, kill, resume elsewhere, and look at what is left."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", default="data", help="a folder of videos and photographs (default: data)")
    folder, data = Path(tempfile.mkdtemp(prefix="rehearsal-")), options.parse_args().data
    os.environ.update(seaweed.environment())
    with trackers.plain("s3://bucket/mlflow", folder) as tracker:
        os.environ.update(environment(tracker))
        push(ROOT / data, folder)
        recipe = written(folder)
        flow = [sys.executable, str(ROOT / "flows" / "train_flow.py")]
        killed([*flow, "--config", "recipe", str(recipe)], folder)
        os.environ["MOBILEVD_CACHE"] = str(folder / "second")
        done = subprocess.run([*flow, "resume"], cwd=folder)
        told = left() | {"exit_code": done.returncode, "folder": str(folder)}
        print(json.dumps(told, indent=2))
    return done.returncode


def environment(tracker: str) -> dict[str, str]:
    """Where everything lies: nothing but caches and Metaflow's own notes is on this disk."""
    found = {"METAFLOW_DEFAULT_DATASTORE": "s3", "METAFLOW_DATASTORE_SYSROOT_S3": STORE, "METAFLOW_USER": "rehearsal"}
    found |= {"METAFLOW_S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"], "MOBILEVD_RUNS": RUNS}
    return found | {"MLFLOW_TRACKING_URI": tracker, "MOBILEVD_LEDGER": "s3://bucket/ledger"}


def push(data: Path, folder: Path) -> None:
    """Pin a copy of the data and push it with DVC itself, and the pin beside it."""
    shutil.copytree(data, folder / "data")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for words in (
        ["init", "--no-scm", "-q"],
        ["add", "-q", "data"],
        ["remote", "add", "-q", "-d", "store", DVC],
        ["remote", "modify", "-q", "store", "endpointurl", endpoint],
        ["push", "-q"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, check=True)
    remote.push_file(folder / "data.dvc", PIN)


def written(folder: Path) -> Path:
    """The smoke recipe on that data, with a stretch of training that is long enough to be killed in."""
    values = yaml.safe_load((ROOT / "recipes" / "smoke.yaml").read_text())
    values["prepare"] |= {"data": DVC, "pin": PIN}
    values["training"] = {"checkpoint_every": 1}
    values["distill"] = {"adversarial": values["distill"]["adversarial"] | {"steps": 12}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def killed(flow: list[str], folder: Path) -> None:
    """Run until a whole checkpoint of KILLED_IN lies on S3, then kill the flow and its tasks outright."""
    os.environ["MOBILEVD_CACHE"] = str(folder / "first")
    running = subprocess.Popen([*flow, "run"], cwd=folder, start_new_session=True)
    while running.poll() is None and not any(_checkpoints()):
        time.sleep(0.5)
    if running.poll() is not None:
        raise SystemExit(f"the flow ended by itself ({running.returncode}) before it was killed")
    print(f"killed in {KILLED_IN}, with {', '.join(_checkpoints())} on S3", flush=True)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    shutil.rmtree(folder / "first")


def left() -> dict:
    """What is on S3 at the end: records by stage, and how many bytes of each kind."""
    objects = {kind: remote.names(f"s3://bucket/{kind}") for kind in ("metaflow", "runs", "dvc", "mlflow")}
    stages = sorted({name.split("/")[2] for name in objects["runs"] if name.endswith("/record.json")})
    sizes = {kind: f"{len(files)} objects, {sum(files.values()) / 1e6:.1f} MB" for kind, files in objects.items()}
    return {"stages": stages, "on S3": sizes}


def _checkpoints() -> list[str]:
    found = remote.names(RUNS)
    return sorted(n.split("/")[4] for n in found if f"/{KILLED_IN}/checkpoints/" in n and n.endswith("/manifest.json"))


if __name__ == "__main__":
    sys.exit(main())
