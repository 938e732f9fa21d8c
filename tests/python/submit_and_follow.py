#!/usr/bin/env python3
"""Submits a no-op job and follows it, from Python, with stubs generated from proto/ on the spot.

usage: submit_and_follow.py ADDRESS PROTO_FOLDER TOKEN_FILE
Also asks for health, repeats an idempotency key, and finds the services by reflection, as grpcurl does. Exit code 0 where
all went as it should.
"""
import collections, importlib, pathlib, subprocess, sys, tempfile, urllib.error, urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

DETAILS = ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")


def stubs(proto: pathlib.Path):
    """Generates the stubs into a temporary folder and imports them."""
    out = tempfile.mkdtemp()
    files = sorted(str(p.relative_to(proto)) for p in proto.glob("qlora/v1/*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}"]
    subprocess.run(command + files, check=True)
    sys.path.insert(0, out)
    return importlib.import_module("qlora.v1.jobs_pb2"), importlib.import_module("qlora.v1.jobs_pb2_grpc")


class Token(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds the coordinator's token to every call. grpc's own call credentials want an encrypted channel."""

    def __init__(self, token: str):
        self.header = ("authorization", f"Bearer {token}")

    def add(self, go_on, details, request):
        metadata = [*(details.metadata or []), self.header]
        kept = {name: getattr(details, name, None) for name in DETAILS}
        return go_on(Details(**{**kept, "metadata": metadata}), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = add


class Details(collections.namedtuple("Details", DETAILS), grpc.ClientCallDetails):
    """What a call is made with."""


def asks_for_the_token(channel: grpc.Channel, address: str) -> None:
    """Health is open; every other call, and the page, ask for the token."""
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health
    try:
        channel.unary_unary("/qlora.v1.JobService/ListJobs")(b"")
        raise AssertionError("a call without a token was answered")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED and "--token-file" in error.details(), error
    try:
        urllib.request.urlopen(f"http://{address}/", timeout=5)
        raise AssertionError("the page was shown without a token")
    except urllib.error.HTTPError as error:
        assert error.code == 401, error


def looks_around(channel: grpc.Channel) -> int:
    """Health of the server, and the number of its services that reflection describes with all their methods."""
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health
    database = ProtoReflectionDescriptorDatabase(channel)
    ours = [name for name in database.get_services() if name.startswith("qlora.v1.")]
    for name in ours:
        described = database.FindFileContainingSymbol(name).service
        assert any(f"qlora.v1.{service.name}" == name and service.method for service in described), name
    return len(ours)


def knows_what_it_has_not(channel: grpc.Channel, address: str, token: str) -> None:
    """An unknown method and an unknown page are refused, each in the words of its protocol."""
    try:
        channel.unary_unary("/qlora.v1.JobService/Fly")(b"")
        raise AssertionError("an unknown method answered")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    for path in ("nothing", "j/1000000"):
        try:
            request = urllib.request.Request(f"http://{address}/{path}", headers={"Authorization": f"Bearer {token}"})
            urllib.request.urlopen(request, timeout=5)
            raise AssertionError(f"/{path} was found")
        except urllib.error.HTTPError as error:
            assert error.code == 404 and b"<html" in error.read(), path


def main() -> None:
    address, proto = sys.argv[1], pathlib.Path(sys.argv[2])
    jobs, jobs_grpc = stubs(proto)
    token = pathlib.Path(sys.argv[3]).read_text().strip()
    with grpc.insecure_channel(address) as plain:
        asks_for_the_token(plain, address)
        channel = grpc.intercept_channel(plain, Token(token))
        knows_what_it_has_not(channel, address, token)
        services = looks_around(channel)
        assert services == 6, services
        service = jobs_grpc.JobServiceStub(channel)
        request = jobs.SubmitRequest(kind=jobs.JOB_KIND_NOOP, name="from python", idempotency_key="python")
        first, again = service.Submit(request), service.Submit(request)
        assert first.created and not again.created and first.job.id == again.job.id
        states = [jobs.JobState.Name(job.state) for job in service.Watch(jobs.WatchRequest(id=first.job.id))]
        assert states[-1] == "JOB_STATE_SUCCEEDED", states
        try:
            service.GetJob(jobs.GetJobRequest(id=10**6))
            raise AssertionError("an unknown job was found")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
        print(f"job {first.job.id}: {' '.join(states)}")


main()
