"""The Terraform root: declared whole, safe on a mocked account, made and read back on a local stand-in of AWS."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import aws
import pytest

pytest.importorskip("moto", reason="moto stands for AWS: install the extra `cloud`")
REPOSITORY = Path(__file__).resolve().parents[1]
ROOT = REPOSITORY / "infra" / "terraform"
SAID, REGION, ACCOUNT = "apply.txt", "eu-central-1", "123456789012"
ABSENT = "no terraform, or no AWS provider 5 on this machine: infra/terraform was neither tested nor applied"
VARIABLES = ["-var=monthly_budget_usd=2000", "-var=alarm_mail=team@example.org"]
VARIABLES += [f"-var=mlflow_image=registry.example/mlflow@sha256:{'0' * 64}"]
STAND_IN = 'provider "aws" {\n  access_key = "tests"\n  secret_key = "tests"\n  s3_use_path_style = true\n}\n'


class Making(NamedTuple):
    """A folder whose apply is under way: the stand-in's database takes two minutes, as the provider waits for it."""

    folder: Path
    process: subprocess.Popen


def begin(folder: Path) -> bool:
    """Copy the root there and fetch its provider, from this disk or the registry; whether it could be had."""
    homes = [Path.home() / ".terraform.d" / "plugins", *Path("/opt").glob("*")]
    found = [f"-plugin-dir={home}" for home in homes if any(home.glob("*/hashicorp/aws/5.*"))][:1]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".terraform*"))
    (folder / "stand_in_override.tf").write_text(STAND_IN)
    words = ["terraform", "init", "-input=false", *found]
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, timeout=300).returncode == 0


def environment() -> dict[str, str]:
    """Terraform without a person's own settings, brought to the stand-in."""
    quiet = {"TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return os.environ | quiet | {"AWS_ENDPOINT_URL": aws.address(), "AWS_EC2_METADATA_DISABLED": "true"}


def terraform(folder: Path, *words: str) -> str:
    """What `terraform` says there; it must end well."""
    done = subprocess.run(
        ["terraform", *words], cwd=folder, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def making(tmp_path_factory):
    """An apply that begins with the first test of this file; the last ones wait for it."""
    folder = tmp_path_factory.mktemp("terraform") / "root"
    if shutil.which("terraform") is None or not begin(folder):
        yield None
        return
    words = ["terraform", "apply", "-auto-approve", "-input=false", "-no-color", *VARIABLES]
    with (folder / SAID).open("w") as said:
        process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=said, stderr=said)
    yield Making(folder, process)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def made(making) -> tuple[Path, str]:
    """Where everything was made, and what Terraform said."""
    (making or pytest.skip(ABSENT)).process.wait(timeout=600)
    said = (making.folder / SAID).read_text()
    assert making.process.returncode == 0, said[-4000:]
    return making.folder, said


def test_every_name_that_terraform_uses_is_declared():
    hcl2 = pytest.importorskip("hcl2", reason="the extra `cloud` brings python-hcl2")
    declared, text = set(), ""
    for path in sorted(ROOT.glob("*.tf")):
        read = hcl2.loads(path.read_text(encoding="utf-8"))
        text += path.read_text(encoding="utf-8")
        for kind in ("resource", "data"):
            prefix = "data." if kind == "data" else ""
            for block in read.get(kind, []):
                declared |= {f"{prefix}{t}.{n}".replace('"', "") for t, named in block.items() for n in named}
        declared |= {f"var.{name}".replace('"', "") for block in read.get("variable", []) for name in block}
        declared |= {f"local.{name}" for block in read.get("locals", []) for name in block if not name.startswith("__")}
    code = re.sub(r"#.*", "", text)
    used = set(re.findall(r"(?<![\w.\"])(data\.aws_\w+\.\w+|aws_\w+\.\w+|var\.\w+|local\.\w+)", code))
    assert len(used) > 40
    assert sorted(used - declared) == []
    assert sorted(name for name in declared if name.startswith("var.") and name not in used) == []


@pytest.mark.slow
def test_what_must_hold_holds_on_a_mocked_account(making):
    folder = (making or pytest.skip(ABSENT)).folder.with_name("mocked")
    shutil.copytree(making.folder, folder, ignore=shutil.ignore_patterns("stand_in*", "terraform.tfstate*", ".*.info"))
    terraform(folder, "fmt", "-check", "-recursive")
    assert re.search(r"Success! [6-9] passed, 0 failed", terraform(folder, "test", "-no-color"))


@pytest.mark.slow
def test_everything_planned_is_made_and_a_second_apply_would_make_nothing(made):
    folder, said = made
    [planned], [added] = re.findall(r"Plan: (\d+) to add", said), re.findall(r"Resources: (\d+) added, 0 changed", said)
    assert int(planned) == int(added) > 50
    again = terraform(folder, "plan", "-input=false", "-no-color", *VARIABLES)
    assert re.search("Plan: 0 to add, .* 0 to destroy|No changes", again), again[-3000:]


@pytest.mark.slow
def test_what_was_made_is_read_back_closed_encrypted_kept_and_without_machines(made):
    outputs = json.loads(terraform(made[0], "output", "-json"))
    s3, bucket = aws.client("s3", REGION), {"Bucket": outputs["bucket"]["value"]}
    assert s3.get_bucket_versioning(**bucket)["Status"] == "Enabled"
    assert all(s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"].values())
    [rule] = s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert len(s3.get_bucket_lifecycle_configuration(**bucket)["Rules"]) == 2
    [database] = aws.client("rds", REGION).describe_db_instances()["DBInstances"]
    assert (database["PubliclyAccessible"], database["StorageEncrypted"]) == (False, True)
    batch = aws.client("batch", REGION)
    pools = batch.describe_compute_environments()["computeEnvironments"]
    assert [pool["computeResources"]["minvCpus"] for pool in pools] == [0, 0, 0, 0]
    [told] = aws.client("budgets", REGION).describe_budgets(AccountId=ACCOUNT)["Budgets"]
    assert (told["BudgetName"], told["BudgetLimit"]["Amount"]) == ("mobilevd-month", "2000")


@pytest.mark.slow
def test_plain_http_is_refused_and_a_flow_is_deployed_with_what_terraform_says_and_no_more(made, tmp_path):
    said = json.loads(terraform(made[0], "output", "-json"))["environment"]["value"]
    own = dict(line.removeprefix("export ").split("=", 1) for line in said.splitlines())
    assert "S3 access denied" in deployed(tmp_path, own).stderr
    aws.client("s3", REGION).delete_bucket_policy(Bucket=own["MOBILEVD_RUNS"].split("/")[2])  # the stand-in has no TLS
    done = deployed(tmp_path, own)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    states = aws.client("stepfunctions", REGION)
    [machine] = states.list_state_machines()["stateMachines"]
    told = states.describe_state_machine(stateMachineArn=machine["stateMachineArn"])
    assert (told["name"], told["roleArn"]) == ("WatchFlow", own["METAFLOW_SFN_IAM_ROLE"])
    assert json.loads(told["definition"])["States"]["start"]["Parameters"]["JobQueue"] == "mobilevd-cpu"


def deployed(folder: Path, own: dict[str, str]) -> subprocess.CompletedProcess:
    """WatchFlow deployed to the stand-in with these variables, and none of Metaflow's or the project's besides."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "MOBILEVD_"))}
    found |= own | {name: aws.address() for name in ("AWS_ENDPOINT_URL", "METAFLOW_S3_ENDPOINT_URL")}
    found |= {"METAFLOW_USER": "tests", "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
    flow, recipe = REPOSITORY / "flows" / "watch_flow.py", REPOSITORY / "recipes" / "mobilevd.yaml"
    words = ["--config", "recipe", recipe, "--with", "batch", "step-functions", "create"]
    return subprocess.run(
        [sys.executable, flow, *words], cwd=folder, env=found, capture_output=True, text=True, timeout=300
    )
