"""Deploying a flow without a cluster: to JSON for Argo, to a local stand-in of Step Functions; data on a real S3."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import aws
import seaweed
import yaml

ROOT = Path(__file__).resolve().parents[1]
GPU = {"cpu": 12.0, "memory_gb": 96.0, "disk_gb": 200.0, "gpus": 4, "gpu_type": "NVIDIA-A100-SXM4-80GB"}
GPU |= {"minutes": 2880, "retries": 4, "spot": True}
RECIPE = {
    "from": "recipes/smoke.yaml",
    "name": "smoke-cloud",
    "retrain": {"cron": "30 2 * * ? *", "timezone": "Europe/Berlin"},
    "machines": {
        "default": {"minutes": 45, "image": "registry.example/mobilevd:1"},
        "steps": {"finetune": GPU, "quantize": {"memory_gb": 16.0}},
        "nodes": 2,
        "queues": "team",
        "secrets": ["mobilevd-mlflow"],
    },
}
EVENTS = "http://argo-events-webhook-eventsource-svc.argo:12000/metaflow-event"
ROLE = "arn:aws:iam::123456789012:role/"


def environment() -> dict[str, str]:
    """What a machine that deploys needs to know."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "MOBILEVD_"))}
    found |= seaweed.environment() | {"METAFLOW_USER": "tests", "METAFLOW_DEFAULT_DATASTORE": "s3"}
    found |= {"METAFLOW_DATASTORE_SYSROOT_S3": "s3://bucket/deployed", "METAFLOW_SERVICE_VERSION_CHECK": "false"}
    found |= {"METAFLOW_S3_ENDPOINT_URL": found["AWS_ENDPOINT_URL"], "MOBILEVD_RUNS": "s3://bucket/runs"}
    found |= {"METAFLOW_DEFAULT_SECRETS_BACKEND_TYPE": "aws-secrets-manager"}
    argo = {"EVENT": "metaflow-event", "EVENT_SOURCE": "argo-events-webhook", "EVENT_BUS": "default"}
    argo |= {"SERVICE_ACCOUNT": "operate-workflow-sa", "WEBHOOK_URL": EVENTS, "INTERNAL_WEBHOOK_URL": EVENTS}
    return found | {f"METAFLOW_ARGO_EVENTS_{name}": value for name, value in argo.items()}


def run(folder: Path, flow: str, *words: str, changes: dict | None = None, **variables: str):
    """One command of a flow on the recipe above, with some of its sections changed."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | (changes or {})))
    program = [sys.executable, str(ROOT / "flows" / f"{flow}_flow.py"), "--config", "recipe", str(recipe)]
    variables = environment() | {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder)} | variables
    return subprocess.run([*program, *words], cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def argo(folder: Path, flow: str, **changes) -> dict:
    """The Argo workflow template of a flow, compiled as for deployment."""
    done = run(folder, flow, "--with", "kubernetes", "argo-workflows", "create", "--only-json", changes=changes)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return json.loads(done.stdout)


def step_functions(folder: Path, flow: str) -> dict:
    """Deploy a flow to the local stand-in, on a clock in UTC, and read back the definition of its state machine."""
    utc = {"retrain": RECIPE["retrain"] | {"timezone": None}}
    done = run(folder, flow, "--with", "batch", "step-functions", "create", changes=utc, **on_aws())
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return json.loads(machine(f"{flow.title()}Flow")["definition"])


def machine(name: str) -> dict:
    """A state machine as the API tells it."""
    client = aws.client("stepfunctions")
    [found] = [m for m in client.list_state_machines()["stateMachines"] if m["name"] == name]
    return client.describe_state_machine(stateMachineArn=found["stateMachineArn"])


@cache
def on_aws() -> dict[str, str]:
    """What deploying to AWS needs besides; makes the queues that the recipe asks for."""
    batch, iam, ec2 = (aws.client(name) for name in ("batch", "iam", "ec2"))
    role = iam.create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    profile = iam.create_instance_profile(InstanceProfileName="batch")["InstanceProfile"]["Arn"]
    resources = {"type": "EC2", "minvCpus": 0, "maxvCpus": 96, "instanceTypes": ["p4d"], "instanceRole": profile}
    resources |= {"subnets": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]]}
    resources |= {"securityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]]}
    pool = batch.create_compute_environment(
        computeEnvironmentName="pool", type="MANAGED", state="ENABLED", serviceRole=role, computeResources=resources
    )["computeEnvironmentArn"]
    for queue in ("team-cpu", "team-gpu-spot"):
        order = [{"order": 1, "computeEnvironment": pool}]
        batch.create_job_queue(jobQueueName=queue, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    found = {f"AWS_ENDPOINT_URL_{name}": aws.address() for name in ("SFN", "BATCH", "EVENTBRIDGE", "DYNAMODB")}
    found |= {"METAFLOW_BATCH_JOB_QUEUE": "team-cpu", "METAFLOW_SFN_DYNAMO_DB_TABLE": "metaflow"}
    roles = ("SFN_IAM", "ECS_S3_ACCESS_IAM", "EVENTS_SFN_ACCESS_IAM")
    found |= {f"METAFLOW_{name}_ROLE": f"{ROLE}{name.lower()}" for name in roles}
    return found | {"METAFLOW_ECS_FARGATE_EXECUTION_ROLE": f"{ROLE}fargate"}
