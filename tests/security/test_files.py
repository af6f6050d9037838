"""A job reads what is under the data root and nothing else; it names no URL, and its template runs no code."""

import gzip
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROW = '{"id": "1", "kind": "math", "problem": "1 + 1", "answer": "2"}\n'
SECRET = "the-content-of-a-file-outside"


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, settings: object) -> Iterator[Path]:
    """A file beside the data root, and ways that lead there from inside. The data root is the test's folder."""
    secret = tmp_path.parent / f"{tmp_path.name}-outside.jsonl"
    secret.write_text(ROW.replace("1 + 1", SECRET))
    (tmp_path / "good.jsonl").write_text(ROW)
    (tmp_path / "link.jsonl").symlink_to(secret)
    (tmp_path / "folder").symlink_to(tmp_path.parent, target_is_directory=True)
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "inside.jsonl").symlink_to(tmp_path / "good.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "directory.jsonl").mkdir()
    yield secret
    secret.unlink()


async def submit(service: httpx.AsyncClient, **dataset: object) -> httpx.Response:
    return await service.post("/v1/jobs", json={"name": "attack", "dataset": dataset}, timeout=20)


ELSEWHERE = [
    "../outside.jsonl", "/etc/passwd", "folder/../../etc/passwd", "link.jsonl", "folder/{outside}", "loop.jsonl",
    "pipe.jsonl", "directory.jsonl", "..", ".", "", "good.jsonl/..", "good.jsonl\x00.jsonl", "~/x.jsonl",
    "a" * 5000 + ".jsonl", "http://127.0.0.1:1/x.jsonl", "file:///etc/passwd", "https://example.org/x.jsonl",
    "s3://bucket/x.jsonl", "//host/x.jsonl",
]  # fmt: skip


async def test_a_path_that_leads_elsewhere_is_refused_and_tells_nothing(
    service: httpx.AsyncClient, outside: Path
) -> None:
    for path in ELSEWHERE:
        reply = await submit(service, path=path.format(outside=outside.name))
        assert reply.status_code == 422, (path, reply.text)
        assert SECRET not in reply.text and "root:" not in reply.text


async def test_files_under_the_root_and_links_that_stay_there_are_read(service: httpx.AsyncClient) -> None:
    for path in ("good.jsonl", "inside.jsonl"):
        assert (await submit(service, path=path)).status_code == 202


async def test_a_bomb_of_compressed_lines_is_read_as_a_stream_and_refused_at_its_first_bad_row(
    service: httpx.AsyncClient, tmp_path: Path
) -> None:
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wt") as file:
        file.write("[]\n" * 1_000_000)
    reply = await submit(service, path="bomb.jsonl.gz")
    assert reply.status_code == 422
    assert "line 1" in reply.text


@pytest.mark.parametrize(
    "job", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "20250101-000000-abcdef%00", "*", "%2e%2e"]
)
async def test_a_jobs_id_is_no_path(job: str, service: httpx.AsyncClient) -> None:
    for rest in ("", "/spec", "/trajectories", "/events", "/export"):
        assert (await service.get(f"/v1/jobs/{job}{rest}")).status_code in (404, 422)


async def test_a_part_is_no_path(service: httpx.AsyncClient) -> None:
    job = (await submit(service, path="good.jsonl")).json()["id"]
    for part in ["../../x", "rollout-0/../..", "rollout-x", "rollout-" + "9" * 40]:
        assert (await service.get(f"/v1/jobs/{job}/trajectories", params={"part": part})).status_code == 422, part


async def test_no_field_of_a_job_makes_the_service_connect_anywhere(service: httpx.AsyncClient) -> None:
    """A listener stands for an inner service; the job names it wherever a text is taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.jsonl"
        for dataset in ({"path": url}, {"hub": url}, {"hub": f"{url}/a"}, {"hub": "a/b", "config": url, "split": url}):
            reply = await submit(service, **dataset)
            assert reply.status_code in (202, 422)
        spec = {"name": "x", "dataset": {"path": "good.jsonl"}}
        for extra in (
            {"model": url}, {"engine_url": url}, {"verifier_url": url}, {"webhook": url},
            {"train": {"model": url}}, {"protocol": {"template": url}},
            {"protocol": {"template": f"{{% include '{url}' %}}"}},
        ):  # fmt: skip
            reply = await service.post("/v1/jobs", json=spec | extra)
            assert reply.status_code == 422, extra
        with pytest.raises(TimeoutError):
            listener.accept()


TEMPLATES = [
    "{{ problem.__class__.__mro__[1].__subclasses__() }}", "{{ ''.__class__ }}{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}", "{% import 'os' as os %}{{ problem }}",
    "{% include '/etc/passwd' %}{{ problem }}",
    "{{ lipsum.__globals__['os'].popen('id') }}", "{{ settings }}", "{{ problem|attr('__class__') }}",
]  # fmt: skip


async def test_a_template_runs_no_code_and_reads_no_files(service: httpx.AsyncClient) -> None:
    for template in TEMPLATES:
        spec = {"name": "x", "dataset": {"path": "good.jsonl"}, "protocol": {"template": template}}
        reply = await service.post("/v1/jobs", json=spec)
        assert reply.status_code == 422, (template, reply.text)
        assert "root:" not in reply.text and "<class" not in reply.text
