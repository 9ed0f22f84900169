"""What a cluster would get: the flows compile for Argo and Step Functions, with what the recipe says of machines."""

import json

import deployers
import pytest
from deployers import GPU, RECIPE

pytest.importorskip("hera", reason="hera checks the compiled JSON: install the extra `cloud`")
pytest.importorskip("moto", reason="moto stands for AWS: install the extra `cloud`")


STAGES = ["prepare", "finetune", "distill", "prune", "funnel"]


@pytest.fixture(scope="module")
def retrain(tmp_path_factory) -> dict:
    return deployers.argo(tmp_path_factory.mktemp("argo"), "retrain")


def templates(workflow: dict) -> dict[str, dict]:
    from hera.workflows.models import WorkflowTemplate

    WorkflowTemplate.model_validate(workflow)
    return {template["name"]: template for template in workflow["spec"]["templates"]}


@pytest.mark.slow
def test_argo_gets_the_machines_retries_and_limits_of_the_recipe(retrain):
    steps = templates(retrain)
    finetune, gate = steps["finetune"], steps["gate"]
    asked = finetune["container"]["resources"]
    assert asked["limits"] == {"nvidia.com/gpu": "4"}
    assert (float(asked["requests"]["cpu"]), asked["requests"]["memory"]) == (GPU["cpu"], "98304M")
    assert finetune["nodeSelector"] == {
        "eks.amazonaws.com/capacityType": "SPOT",
        "nvidia.com/gpu.product": GPU["gpu_type"],
    }
    assert [taint["key"] for taint in finetune["tolerations"]] == ["nvidia.com/gpu"]
    assert (finetune["retryStrategy"]["limit"], finetune["activeDeadlineSeconds"]) == (4, 2880 * 60)
    assert not gate["container"]["resources"]["limits"]
    assert not gate.get("nodeSelector")
    assert (gate["retryStrategy"]["limit"], gate["activeDeadlineSeconds"]) == (2, 45 * 60)
    assert steps["quantize"]["container"]["resources"]["requests"]["memory"] == "16384M"
    assert {steps[name]["container"]["image"] for name in ("finetune", "gate")} == {"registry.example/mobilevd:1"}


@pytest.mark.slow
def test_argo_gets_the_schedule_the_trigger_and_where_things_lie(retrain):
    notes = retrain["metadata"]["annotations"]
    assert json.loads(notes["metaflow/cron"]) == {"schedule": "30 2 * * ?", "tz": "Europe/Berlin"}
    assert [trigger["name"] for trigger in json.loads(notes["metaflow/triggers"])] == ["mobilevd-data"]
    for template in templates(retrain).values():
        command = " ".join((template.get("container") or {}).get("command") or [])
        if "retrain_flow.py" in command:
            told = {item["name"]: item.get("value") for item in template["container"]["env"]}
            assert told["MOBILEVD_RUNS"] == "s3://bucket/runs"
            assert "--with secrets" in command or "METAFLOW_DEFAULT_SECRETS_BACKEND_TYPE" in told


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["train", "promote"])
def test_argo_gets_the_other_flows_without_a_schedule(flow, tmp_path):
    workflow = deployers.argo(tmp_path, flow)
    assert {"start", "end"} <= templates(workflow).keys()
    assert (
        json.loads(workflow["metadata"]["annotations"].get("metaflow/cron", '{"schedule": null}'))["schedule"] is None
    )


@pytest.mark.slow
def test_argo_gets_a_gang_for_every_stage_that_machines_share(tmp_path):
    workflow = deployers.argo(tmp_path, "train_nodes")
    steps = templates(workflow)
    for stage in ("finetune", "distill", "prune", "funnel"):
        assert "kind: JobSet" in steps[stage]["resource"]["manifest"]
    assert "nvidia.com/gpu" in steps["finetune"]["resource"]["manifest"]
    assert "resource" not in steps["quantize"]


@pytest.mark.slow
def test_a_flow_may_start_after_another_instead(tmp_path):
    after = RECIPE["retrain"] | {"event": None, "after": "IngestFlow"}
    notes = deployers.argo(tmp_path, "retrain", retrain=after)["metadata"]["annotations"]
    [trigger] = json.loads(notes["metaflow/triggers"])
    assert (trigger["type"], trigger["name"]) == ("run", "metaflow.IngestFlow.end")


def test_a_password_in_an_address_is_not_written_into_a_deployed_flow(tmp_path):
    address = "https://user:planted@mlflow.example"
    done = deployers.run(
        tmp_path,
        "promote",
        "--with",
        "kubernetes",
        "argo-workflows",
        "create",
        "--only-json",
        MLFLOW_TRACKING_URI=address,
    )
    assert done.returncode != 0
    assert "MLFLOW_TRACKING_URI would be written into the deployed flow" in done.stderr + done.stdout
    assert "planted" not in done.stderr + done.stdout


@pytest.mark.slow
def test_step_functions_gets_the_flow_its_queues_and_a_watcher_on_the_clock(tmp_path):
    states = deployers.step_functions(tmp_path, "train")["States"]
    finetune, gate = states["finetune"]["Parameters"], states["gate"]["Parameters"]
    assert (finetune["JobQueue"], gate["JobQueue"]) == ("team-gpu-spot", "team-cpu")
    asked = {item["Type"]: item["Value"] for item in finetune["ContainerOverrides"]["ResourceRequirements"]}
    assert asked == {"VCPU": "12", "GPU": "4", "MEMORY": "98304"}
    assert finetune["RetryStrategy"] == {"Attempts": 5}
    assert finetune["Timeout"] == {"AttemptDurationSeconds": 2880 * 60}
    assert [s for s in states if s in STAGES] == STAGES
    assert any("encode" in s.get("Iterator", {}).get("States", {}) for s in states.values()), "a map over shards"
    assert set(deployers.step_functions(tmp_path, "watch")["States"]) == {"start", "end"}
    [rule] = deployers.aws.client("events").list_rules(NamePrefix="WatchFlow")["Rules"]
    assert (rule["ScheduleExpression"], rule["State"]) == ("cron(30 2 * * ? *)", "ENABLED")
    [target] = deployers.aws.client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"]
    assert target["Arn"] == deployers.machine("WatchFlow")["stateMachineArn"]
