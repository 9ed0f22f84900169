"""A service on this machine that speaks Qualcomm AI Hub's protocol, in the client's own messages.

Its phone is this CPU. What a job computes is real: ONNX Runtime runs the graph that was uploaded; times and layers are
planted."""

import contextlib
import io
import json
import re
import socket
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import h5py
import numpy as np
from qai_hub import public_api_pb2 as pb
from qai_hub.util.dataset_entries_converters import dataset_entries_to_h5, h5_to_dataset_entries

from mobilevd.device.session import open_session

TOKEN = "planted-token-of-the-phone-service"
DEVICES = {"Samsung Galaxy S24": "14", "Samsung Galaxy S23": "13", "Google Pixel 8": "14"}
CHIP = "chipset:qualcomm-snapdragon-8gen3"
TIMES_US = [2000, 1000, 4000, 3000]
LAYERS = [("conv", "Conv2d", "NPU", 700), ("norm", "LayerNorm", "NPU", 200), ("gelu", "Gelu", "CPU", 300)]
DONE, FAILED, RUNNING = 10, 30, 50
PART = 1 << 16


class AiHub:
    """``address``, what was sent to it, and what shall go wrong.

    ``fail``: kinds of job; ``polls``: how often a job is looked at before it ends, ``left`` for those that are there;
    ``cuts``: of uploads; ``noise``; ``expired``: jobs whose outputs are, and whose models are gone; ``missing``: the
    status of what is gone, as a job is that was popped from ``jobs``.
    """

    def __init__(self):
        self.fail: set[str] = set()
        self.polls, self.cuts, self.noise, self.missing = 1, 0, 0.0, 404
        self.blobs: dict[str, dict[int, bytes]] = {}
        self.jobs: dict[str, pb.Job] = {}
        self.asked: list[str] = []
        self.expired: set[str] = set()
        self.makers: dict[str, str] = {}
        self.left: dict[str, int] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def configure(self, folder: Path, token: str = TOKEN) -> Path:
        """The client's configuration file for this service."""
        file = Path(folder) / "client.ini"
        file.write_text(f"[api]\napi_token = {token}\napi_url = {self.address}\nweb_url = {self.address}\n")
        return file

    def new(self, kind: str) -> str:
        """An id, and room for its bytes."""
        with self._lock:
            name = f"{kind}{len(self.blobs):03d}"
            self.blobs[name] = {}
            return name

    def bytes_of(self, name: str) -> bytes:
        return b"".join(data for _, data in sorted(self.blobs[name].items()))

    def submitted(self, kind: str) -> list[str]:
        return [name for name, job in self.jobs.items() if job.WhichOneof("job") == f"{kind}_job"]

    def submit(self, job: pb.Job) -> str:
        """Take a job; its target model is known at once, and holds the bytes of its source."""
        kind = job.WhichOneof("job").removesuffix("_job")
        inner, name = getattr(job, f"{kind}_job"), self.new("j")
        setattr(inner, f"{kind}_job_id", name)
        inner.job_state = RUNNING
        job.hub_version = "aihub-2026.11.01"
        if kind != "inference":
            target = self.new("m")
            self.blobs[target], self.makers[target] = self.blobs[inner.model.model_id], name
            kinds = {"compile": pb.MODEL_TYPE_QNN_CONTEXT_BINARY, "quantize": pb.MODEL_TYPE_ONNX}
            inner.target_model.CopyFrom(pb.Model(model_id=target, model_type=kinds[kind], producer_id=name))
        if kind == "compile":
            inner.device.CopyFrom(inner.devices.devices[0])
        self.jobs[name], self.left[name] = job, self.polls
        return name

    def look(self, name: str) -> pb.Job:
        """A job as it is now: each look brings it nearer to its end."""
        job = self.jobs[name]
        kind = job.WhichOneof("job").removesuffix("_job")
        inner = getattr(job, f"{kind}_job")
        self.left[name] -= 1
        if self.left[name] < 0 and inner.job_state == RUNNING:
            inner.job_state = FAILED if kind in self.fail else DONE
            inner.failure_reason = f"planted failure of the {kind} job" if kind in self.fail else ""
        return job

    def result(self, name: str) -> pb.JobResult:
        """Planted times, and the outputs of the uploaded graph on the uploaded inputs."""
        job = self.jobs[name].inference_job
        with h5py.File(io.BytesIO(self.bytes_of(job.dataset.dataset_id))) as file:
            columns = h5_to_dataset_entries(file)
        with tempfile.NamedTemporaryFile(suffix=".onnx") as graph:
            Path(graph.name).write_bytes(self.bytes_of(job.model.model_id))
            session = open_session(Path(graph.name))
        rows = zip(*columns.values(), strict=True)
        outputs = [session.run(None, dict(zip(columns, row, strict=True)))[0] for row in rows]
        outputs = [y + np.float32(k * self.noise) for k, y in enumerate(outputs)]  # the first input's is right
        stored = io.BytesIO()
        with h5py.File(stored, "w") as file:
            dataset_entries_to_h5({session.get_outputs()[0].name: outputs}, file)
        dataset = self.new("d")
        self.blobs[dataset], self.makers[dataset] = {0: stored.getvalue()}, name
        layers = [
            pb.LayerDetail(name=n, layer_type_name=k, compute_unit=f"COMPUTE_UNIT_{u}", execution_time=t)
            for n, k, u, t in LAYERS
        ]
        detail = pb.ProfileDetail(
            major_version=1,
            minor_version=2,
            execution_time=1500,
            cold_load_time=90_000,
            warm_load_time=30_000,
            after_execution_peak_memory=50_000_000,
            all_execution_times=TIMES_US,
            layer_details=layers,
        )
        return pb.JobResult(inference_job_result={"output_dataset_id": dataset, "detail": detail})


class _Handler(BaseHTTPRequestHandler):
    hub: AiHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self) -> None:
        self._do()

    do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        parts = [part for part in address.path.split("/") if part]
        with self.hub._lock:
            self.hub.asked.append(f"{self.command} {address.path}")
        if parts[0] in ("blob", "form"):
            self._bytes(parts, body)
        elif self.headers.get("Authorization") != f"token {TOKEN}":
            self._send(b"", 401, "text/plain")
        else:
            answer = self._api(parts[2:], {k: v[0] for k, v in parse_qs(address.query).items()}, body)
            missing = json.dumps({"detail": "could not be found"}).encode()
            self._send(missing, self.hub.missing, "application/json") if answer is None else self._send(
                answer.SerializeToString()
            )

    def _send(self, body: bytes, status: int = 200, kind: str = "application/x-protobuf", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _bytes(self, parts: list[str], body: bytes) -> None:
        """The store beside the service: parts of models, forms with datasets, downloads."""
        if self.command == "GET":
            return self._send(self.hub.bytes_of(parts[1]), kind="application/octet-stream")
        if self.hub.cuts:
            self.hub.cuts -= 1
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return None
        if parts[0] == "form":
            boundary = re.search(r"boundary=(\S+)", self.headers["Content-Type"]).group(1).encode()
            body = body.split(b"--" + boundary)[1].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        self.hub.blobs[parts[1]][int(parts[2])] = body
        return self._send(b"", kind="text/plain", ETag=f'"{parts[1]}-{parts[2]}"')

    def _api(self, parts: list[str], query: dict[str, str], body: bytes):
        hub, made = self.hub, lambda name: pb.CreateUpdateResponse(id=name)
        match (self.command, *parts):
            case ("GET", "devices"):
                names = [n for n in DEVICES if query.get("name", "") in ("", n)]
                attributes = ["framework:qnn", "framework:onnx", CHIP]
                return pb.DeviceList(devices=[pb.Device(name=n, os=DEVICES[n], attributes=attributes) for n in names])
            case ("POST", "models" | "datasets" as kind):
                return made(hub.new(kind[0]))
            case ("GET", "models", name, "multipart_upload"):
                count = max(1, -(-int(query["file_size"]) // PART))
                urls = [f"{hub.address}/blob/{name}/{index}" for index in range(count)]
                sent = pb.FileMultipartUploadURL(urls=urls, upload_id="u", max_part_size=PART)
                return pb.FileUploadResponse(multipart_url=sent)
            case ("POST", "models", name, "multipart_upload"):
                etags = pb.FileMultipartUploadComplete.FromString(body).etags
                return made(name if len(etags) == len(hub.blobs[name]) else "")
            case ("GET", "models", name, "download"):
                return None if hub.makers.get(name) in hub.expired else self._download(name, "network.bin")
            case ("GET", "datasets", name, "upload_url"):
                url = pb.FileUploadURL(url=f"{hub.address}/form/{name}/0", file_field_name="file")
                return pb.FileUploadResponse(url=url)
            case ("PATCH", "datasets", name):
                return made(name)
            case ("GET", "datasets", name):
                ended = {"expiration_time": {"seconds": 1}} if hub.makers.get(name) in hub.expired else {}
                return pb.Dataset(dataset_id=name, **ended)
            case ("GET", "datasets", name, "download_data"):
                return self._download(name, "outputs.h5")
            case ("POST", "jobs"):
                return made(hub.submit(pb.Job.FromString(body)))
            case ("GET", "jobs", name):
                return hub.look(name) if name in hub.jobs else None
            case ("GET", "jobs", name, "result"):
                return hub.result(name)
        return None

    def _download(self, name: str, filename: str):
        return pb.FileDownloadResponse(url=pb.FileDownloadURL(url=f"{self.hub.address}/blob/{name}", filename=filename))
