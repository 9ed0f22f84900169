"""What stands in infra/ is valid, pinned, closed by default, and speaks of the same names as the code that uses it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mobilevd import alerts, params
from mobilevd.device import hub
from mobilevd.operations import Machine, Machines
from mobilevd.stages import forecast

ROOT = Path(__file__).resolve().parents[1]
INFRA = ROOT / "infra"
TERRAFORM = sorted((INFRA / "terraform").glob("*.tf"))
DOCKERFILES = sorted((INFRA / "docker").glob("*.Dockerfile"))
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def run(*words, **options) -> str:
    """What a program says; it must end well."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def test_the_queues_that_are_made_are_the_ones_that_a_recipe_asks_for():
    machines = _machines()
    made = set(re.findall(r"^\s+([a-z-]+)\s+= \{ spot", (INFRA / "terraform" / "batch.tf").read_text(), re.MULTILINE))
    asked = {
        machines.on_batch(Machine(gpus=gpus, spot=spot), Machines().queues)["queue"]
        for gpus in (0, 1)
        for spot in (False, True)
    }
    assert asked == {f"mobilevd-{pool}" for pool in made}


def test_terraforms_output_holds_every_variable_that_deploying_to_step_functions_needs():
    said = (INFRA / "terraform" / "outputs.tf").read_text()
    needed = ["DATASTORE_SYSROOT_S3", "DEFAULT_DATASTORE", "BATCH_JOB_QUEUE", "SFN_DYNAMO_DB_TABLE", "SFN_IAM_ROLE"]
    needed += ["ECS_S3_ACCESS_IAM_ROLE", "EVENTS_SFN_ACCESS_IAM_ROLE", "ECS_FARGATE_EXECUTION_ROLE"]
    names = [f"METAFLOW_{name}" for name in needed] + ["MOBILEVD_RUNS", "MOBILEVD_LEDGER", "MLFLOW_TRACKING_URI"]
    assert [name for name in names if f"export {name}=" not in said] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_is_clean_pinned_and_without_root(path):
    hadolint = shutil.which("hadolint") or pytest.skip("the extra `cloud` brings hadolint")
    run(hadolint, path)
    lines = path.read_text().splitlines()
    [base] = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert re.search(r":\d+\.\d+\.\d+", base)
    assert [line for line in lines if line.startswith("USER")][-1] not in ("USER root", "USER 0")
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1] if "=" not in word]
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_fits_the_schema_runs_without_root_and_holds_no_secret(path):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the extra `cloud` brings it")
    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, "1.33", strict=True)
        assert manifest["kind"] != "Secret"
        for pod in pods(manifest):
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert re.search(r":\d+\.\d+", container["image"])
                for item in container.get("env", []):
                    assert "PASSWORD" not in item["name"] or "value" not in item


def pods(manifest: dict) -> list[dict]:
    """The pods that a manifest makes."""
    spec = manifest.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    return [spec["template"]["spec"]] if "template" in spec else []


def test_the_compose_file_fits_its_schema_and_opens_no_port_to_others():
    run(checker(), "--builtin-schema", "vendor.compose-spec", INFRA / "compose.yaml")
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert all(re.search(r":\d+\.\d+", s["image"]) for s in services.values() if "image" in s)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_ci_workflow_is_clean_scheduled_and_without_rights_it_does_not_need(path):
    assert faults(path) == ""
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True]["schedule"], "YAML reads `on` as a truth"
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.search(r"@v\d+$", action)] == []
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(
    ("what", "instead", "told"),
    [
        ("needs: test", "needs: tests", 'job "data" needs job "tests"'),
        ('cron: "17 3 * * *"', 'cron: "17 33 * * *"', "invalid CRON"),
        ("steps.moved.outputs", "steps.move.outputs", 'property "move" is not defined'),
        ('"$GITHUB_OUTPUT"; else', "$GITHUB_OUTPUT; else", "SC2086"),
        ("actions/checkout@v6", "somebody/checkout@v6", "unpinned-uses"),
        ("actions/checkout@v6", "actions/checkout@v4", 'runtime "node20"'),
        ("permissions:", "permission:", "permission"),
        ("run: make test", "run: make test ${{ github.event.head_commit.message }}", "template-injection"),
    ],
)
def test_a_broken_workflow_is_not_clean(what, instead, told, tmp_path):
    text = WORKFLOWS[0].read_text()
    assert what in text
    broken = tmp_path / "broken.yml"
    broken.write_text(text.replace(what, instead))
    assert told in faults(broken)


def faults(path: Path) -> str:
    """What the linters find in a workflow; "" in a clean one. actionlint runs shellcheck on its scripts."""
    for linter in ("actionlint", "zizmor", "shellcheck"):
        shutil.which(linter) or pytest.skip(f"the extra `cloud` brings {linter}")
    safe = ["zizmor", "--offline", "--no-progress", "-q", "--config", ROOT / ".github" / "zizmor.yml", path]
    words = {"text": True, "capture_output": True, "timeout": 120}
    ran = [subprocess.run(command, **words) for command in (["actionlint", path], safe)]
    return "".join(done.stdout + done.stderr for done in ran if done.returncode)


def test_scripts_are_clean():
    scripts = sorted(INFRA.rglob("*.sh"))
    assert scripts
    run(shutil.which("shellcheck") or pytest.skip("the extra `cloud` brings shellcheck"), *scripts)


def test_every_command_of_the_guide_that_is_ours_is_there():
    guide = (INFRA / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^\s+make ([a-z]+)", guide, re.MULTILINE)) <= targets
    files = set(re.findall(r"(?:infra|flows|recipes)/[\w./-]+\.\w+", guide))
    assert len(files) > 5
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []


def test_the_guides_recipe_has_the_time_and_the_money_that_its_forecast_asks_for(tmp_path):
    guide = (INFRA / "README.md").read_text(encoding="utf-8")
    (tmp_path / "team.yaml").write_text(re.search("```yaml\n(.*?)```", guide, re.DOTALL)[1])
    recipe = params.load(tmp_path / "team.yaml")
    clips = recipe.prepare.min_train_clips + recipe.prepare.min_validation_clips
    shared, alone = (forecast.rows(recipe, forecast.Speed(60.0, "as given", devices), clips) for devices in (None, 1))
    longest = max(row["hours"] for row in shared[:-1])
    assert f"--tflops 60` says {longest:.1f} h for finetune" in guide
    for row in shared[:-1]:
        assert recipe.machines.of(row["stage"]).minutes > 1.25 * 60 * row["hours"], row["stage"]
    clips_gb, training_gb = (row["disk, GB"] for row in shared[:2])
    assert f"says {training_gb:.0f} GB of disk for a training stage and {clips_gb:.0f} for the clips" in guide
    for row in shared[:-1]:
        own = 0.0 if row["stage"] == "prepare" else row["disk, GB"]
        assert recipe.machines.of(row["stage"]).disk_gb > 1.25 * (own + clips_gb), row["stage"]
    assert recipe.machines.of("encode").disk_gb > 1.25 * clips_gb
    cost, one = (rows[-1]["device-hours"] * 4.92 for rows in (shared, alone))
    assert f"says {shared[-1]['device-hours']:.1f} device-hours" in guide
    assert f"about {round(cost, -1):,.0f} USD" in guide
    assert f"{alone[-1]['device-hours']:.1f} device-hours, about {round(one, -1):,.0f} USD" in guide
    assert int(re.search(r"monthly_budget_usd=(\d+)", guide)[1]) > cost + 71.75


def test_the_guide_gives_the_token_of_the_phone_that_its_recipe_has_a_gate_on():
    guide = (INFRA / "README.md").read_text(encoding="utf-8")
    [secret] = re.findall(r"--secret-string '(.*)'", guide)
    assert any("qai-hub:" in gate.metric for gate in params.load(ROOT / "recipes" / "mobilevd.yaml").gates)
    assert list(json.loads(secret)) == [alerts.WEBHOOK, hub.TOKEN]


def checker() -> str:
    return shutil.which("check-jsonschema") or pytest.skip("the extra `cloud` brings check-jsonschema")


def _machines():
    import sys

    sys.path.insert(0, str(ROOT / "flows"))
    try:
        import machines
    finally:
        sys.path.remove(str(ROOT / "flows"))
    return machines
