import json
import traceback

import aihub
import pytest

from mobilevd.device import hub as hubs
from mobilevd.device.hub import Hub
from mobilevd.errors import EffectError, MobileVDError

S24 = "Samsung Galaxy S24"


@pytest.fixture
def service(tmp_path, monkeypatch):
    made = aihub.AiHub()
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(made.configure(tmp_path)))
    yield made
    made.close()


@pytest.fixture
def model(tmp_path):
    """As many bytes as are sent in two parts."""
    (tmp_path / "model.onnx").write_bytes(bytes(range(256)) * (3 * aihub.PART // 512))
    return tmp_path / "model.onnx"


def session(tmp_path, timeout_s=20.0, of=None):
    return Hub(tmp_path / "checkpoints", of or {"graphs": "abc"}, timeout_s, poll_s=0.01)


def compiled(hub, model):
    device = hub.device(S24)
    return hub.finished("compile", lambda: hub.client.submit_compile_job(hub.upload(model), device, name="n"))


def noted(tmp_path, step=1):
    return json.loads((tmp_path / "checkpoints" / f"step-{step:02d}" / "jobs.json").read_text())["ids"]


def test_without_the_clients_file_nothing_is_configured(tmp_path, monkeypatch):
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    assert not hubs.configured()
    with pytest.raises(MobileVDError, match="did not read its configuration"):
        session(tmp_path)


def test_secrets_of_a_cluster_configure_it_without_a_file(service, model, tmp_path, monkeypatch):
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    monkeypatch.setenv("QAIHUB_API_URL", service.address)
    monkeypatch.setenv("QAIHUB_API_TOKEN", "wrong-token-wrong")
    with pytest.raises(MobileVDError, match="Failed to authenticate") as error:
        session(tmp_path).device(S24)
    assert "wrong-token-wrong" not in str(error.value)
    monkeypatch.setenv("QAIHUB_API_TOKEN", aihub.TOKEN)
    assert hubs.configured()
    assert compiled(session(tmp_path), model).job_id in service.submitted("compile")


def test_a_job_is_submitted_once_and_its_id_is_written_down(service, model, tmp_path):
    assert hubs.configured()
    job = compiled(session(tmp_path), model)
    assert service.bytes_of(service.jobs[job.job_id].compile_job.model.model_id) == model.read_bytes()
    assert noted(tmp_path) == [["compile", job.job_id]]
    assert compiled(session(tmp_path), model).job_id == job.job_id
    assert service.submitted("compile") == [job.job_id]


def test_a_slow_job_times_out_and_a_later_run_goes_on_with_it(service, model, tmp_path):
    service.polls = 10**6
    with pytest.raises(EffectError, match="not done yet") as error:
        compiled(session(tmp_path, timeout_s=0.1), model)
    [job] = service.submitted("compile")
    assert job in str(error.value)
    assert "timeout_minutes" in str(error.value)
    service.left[job] = 3
    assert compiled(session(tmp_path), model).job_id == job
    assert service.submitted("compile") == [job]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_job_that_the_service_no_longer_knows_is_submitted_anew(service, model, tmp_path, monkeypatch, status):
    told = []
    monkeypatch.setattr(hubs, "say", told.append)
    first = compiled(session(tmp_path), model)
    monkeypatch.setattr(service, "missing", status)
    service.jobs.pop(first.job_id)
    again = compiled(session(tmp_path), model)
    assert noted(tmp_path, 2) == [["compile", again.job_id]] != [["compile", first.job_id]]
    assert [line for line in told if f"did not find the compile job {first.job_id}" in line and "anew" in line]
    assert compiled(session(tmp_path), model).job_id == again.job_id
    assert service.submitted("compile") == [again.job_id]


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_another_answer_forgets_no_job(service, model, tmp_path, monkeypatch, status):
    monkeypatch.setattr("qai_hub.util.session.MAX_RETRIES", 0)
    first = compiled(session(tmp_path), model)
    kept = service.jobs.pop(first.job_id)
    monkeypatch.setattr(service, "missing", status)
    with pytest.raises(MobileVDError, match="did not find the compile job"):
        compiled(session(tmp_path), model)
    service.jobs[first.job_id] = kept
    assert compiled(session(tmp_path), model).job_id == first.job_id


def test_a_service_that_cannot_be_reached_forgets_no_job(service, model, tmp_path, monkeypatch):
    monkeypatch.setattr("qai_hub.util.session.MAX_RETRIES", 0)
    first, again = compiled(session(tmp_path), model), session(tmp_path)
    service.close()
    with pytest.raises(MobileVDError, match="did not find the compile job"):
        again.finished("compile", lambda: pytest.fail("submitted"))
    assert noted(tmp_path) == [["compile", first.job_id]]


def test_jobs_of_another_measurement_are_not_taken_up(service, model, tmp_path):
    first = compiled(session(tmp_path), model)
    other = compiled(session(tmp_path, of={"graphs": "another"}), model)
    assert other.job_id != first.job_id


def test_a_failed_job_says_why_and_the_next_run_submits_another(service, model, tmp_path):
    service.fail = {"compile"}
    with pytest.raises(EffectError, match="planted failure of the compile job"):
        compiled(session(tmp_path), model)
    service.fail = set()
    again = compiled(session(tmp_path), model).job_id
    assert service.submitted("compile").index(again) == 1


def test_jobs_that_hung_on_one_that_is_submitted_anew_are_forgotten(service, model, tmp_path):
    first = compiled(session(tmp_path), model)
    hub = session(tmp_path)
    compiled(hub, model)
    later = hub.finished("profile", lambda: first)
    assert noted(tmp_path, 2) == [["compile", first.job_id], ["profile", later.job_id]]
    service.jobs[first.job_id].compile_job.job_state = aihub.FAILED
    again = compiled(session(tmp_path), model)
    assert noted(tmp_path, 3) == [["compile", again.job_id]]  # a new name: the others may be on S3 already
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-03"]
    assert compiled(session(tmp_path), model).job_id == again.job_id


def test_the_client_prints_nothing_of_its_own(service, model, tmp_path, capfd):
    compiled(session(tmp_path), model)
    assert capfd.readouterr().out == ""


def test_a_bad_token_is_refused_with_the_way_to_mend_it_and_never_shown(service, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(service.configure(tmp_path, "wrong-token-wrong")))
    with pytest.raises(MobileVDError, match="Failed to authenticate") as error:
        session(tmp_path).device(S24)
    assert "qai-hub configure" in str(error.value)
    assert "wrong-token-wrong" not in str(error.value) + "".join(capfd.readouterr())


def test_a_token_that_the_service_repeats_is_taken_out_of_the_error(service, tmp_path):
    hub = session(tmp_path)
    with pytest.raises(MobileVDError) as error, hub.plainly("take the job"):
        raise ValueError(f"Failed to create compile job: {aihub.TOKEN} is over its quota")
    assert aihub.TOKEN not in str(error.value)
    assert "is over its quota" in str(error.value)


@pytest.mark.parametrize("text", ["api_token = {0}\n", "[api]\napi_token = {0}\napi_token = {0}\n"])
def test_a_configuration_that_cannot_be_read_is_named_without_its_lines(text, tmp_path, monkeypatch):
    file = tmp_path / "client.ini"
    file.write_text(text.format(aihub.TOKEN))
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(file))
    with pytest.raises(MobileVDError, match="did not read its configuration") as error:
        session(tmp_path)
    assert str(file) in str(error.value)
    assert aihub.TOKEN not in "".join(traceback.format_exception(error.value))


def test_an_unknown_device_is_refused_with_those_that_come_near(service, tmp_path):
    with pytest.raises(MobileVDError, match="no such device") as error:
        session(tmp_path).device("Samsung Galaxy S42")
    assert "Samsung Galaxy S24" in str(error.value)


def test_an_upload_that_is_cut_is_sent_again(service, model, tmp_path):
    service.cuts = 1
    job = compiled(session(tmp_path), model)
    assert service.cuts == 0
    assert service.bytes_of(service.jobs[job.job_id].compile_job.model.model_id) == model.read_bytes()


def test_weights_beside_the_graph_are_sent_with_it(service, tmp_path):
    graph = tmp_path / "large.onnx"
    graph.write_bytes(b"graph")
    (tmp_path / "large.onnx.data").write_bytes(b"weights")
    sent = session(tmp_path).upload(graph)
    packed = service.bytes_of(sent.model_id)
    assert b"large.onnx/large.onnx.data" in packed
    assert b"large.onnx/large.onnx" in packed


def test_the_token_lies_in_no_file_that_a_stage_leaves(service, model, tmp_path):
    compiled(session(tmp_path), model)
    written = [path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert written
    assert not [data for data in written if aihub.TOKEN.encode() in data]
