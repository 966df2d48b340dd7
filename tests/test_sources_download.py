from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from ftplatform.core.errors import CorruptObject, InvalidConfig, NotFound
from ftplatform.data.sources.collect import collect
from ftplatform.data.sources.download import Address, download, parse_address, read_list

BODY = b"".join(b'{"prompt": "question %d", "completion": "answer"}\n' % i for i in range(2000))


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        ranged = self.headers.get("Range")
        self.asked.append((self.path, ranged))
        earlier = sum(path == self.path for path, _ in self.asked) - 1
        kind = self.path.split("/")[1]
        if kind == "busy" and earlier < 2:
            self._answer(429, b"", {"Retry-After": "7"})
        elif kind == "down":
            self._answer(503, b"", {})
        elif kind == "missing":
            self._answer(404, b"", {})
        elif kind == "around":
            self._answer(302, b"", {"Location": self.path})
        elif kind == "moved":
            self._answer(302, b"", {"Location": "/plain/rows.jsonl"})
        elif kind in ("broken", "changed") and earlier == 0:
            self._answer(200, BODY, {"ETag": '"one"'}, send=1000)
        elif kind == "broken" and ranged:
            assert self.headers["If-Range"] == '"one"'
            start = int(ranged.removeprefix("bytes=").removesuffix("-"))
            self._answer(
                206, BODY[start:], {"ETag": '"one"', "Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
            )
        else:
            self._answer(200, BODY, {"ETag": '"two"'})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], send: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:send])
        if send is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, folder: Path, **options: object) -> tuple[Path, list[float]]:
    waits: list[float] = []
    return download(parse_address(url, "test"), folder, sleep=waits.append, **options), waits


def test_a_file_comes_whole_under_its_own_name(site: str, tmp_path: Path) -> None:
    path, waits = get(f"{site}/plain/my%20rows.jsonl?token=x sha256={sha256(BODY).hexdigest()}", tmp_path)
    assert path == tmp_path / "my rows.jsonl"
    assert path.read_bytes() == BODY
    assert waits == []
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["my rows.jsonl"]


def test_a_broken_transfer_goes_on_where_it_stopped(site: str, tmp_path: Path) -> None:
    path, _ = get(f"{site}/broken/rows.jsonl", tmp_path)
    assert path.read_bytes() == BODY
    assert [ranged for _, ranged in Site.asked] == [None, "bytes=1000-"]


def test_a_file_that_changed_meanwhile_starts_again(site: str, tmp_path: Path) -> None:
    path, _ = get(f"{site}/changed/rows.jsonl", tmp_path)
    assert path.read_bytes() == BODY, "not the old beginning before the new whole"


def test_a_busy_server_is_asked_again_when_it_says(site: str, tmp_path: Path) -> None:
    path, waits = get(f"{site}/busy/rows.jsonl", tmp_path)
    assert path.read_bytes() == BODY
    assert waits == [7.0, 7.0]


def test_a_server_that_stays_down_is_given_up(site: str, tmp_path: Path) -> None:
    waits: list[float] = []
    with pytest.raises(CorruptObject, match=r"3 attempts.*HTTP 503") as error:
        download(Address(f"{site}/down/rows.jsonl"), tmp_path, attempts=3, sleep=waits.append)
    assert error.value.retry_helps
    assert waits == [1.0, 2.0]


def test_other_bytes_than_the_list_says_are_refused_and_leave_nothing(site: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptObject, match="SHA-256"):
        get(f"{site}/plain/rows.jsonl sha256={'0' * 64}", tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_what_is_too_large_is_not_fetched(site: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="--max-gb"):
        get(f"{site}/plain/rows.jsonl", tmp_path, max_bytes=len(BODY) - 1)
    assert not (tmp_path / "rows.jsonl").exists()


def test_redirects_are_followed_a_few_times(site: str, tmp_path: Path) -> None:
    path, _ = get(f"{site}/moved/other.jsonl", tmp_path)
    assert (path.name, path.read_bytes()) == ("other.jsonl", BODY)
    with pytest.raises(InvalidConfig, match="redirects"):
        get(f"{site}/around/rows.jsonl", tmp_path)


def test_a_redirect_out_of_https_is_refused(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": "http://other.example/rows.jsonl"})
        return httpx.Response(200, content=BODY)

    with (
        httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True) as client,
        pytest.raises(InvalidConfig, match="not encrypted"),
    ):
        download(Address("https://one.example/rows.jsonl"), tmp_path, client=client)


def test_a_missing_file_is_not_asked_for_again(site: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="404"):
        get(f"{site}/missing/rows.jsonl", tmp_path)
    assert len(Site.asked) == 1


@pytest.mark.parametrize(
    "line", ["ftp://host/rows.jsonl", "https://host/", "https://host/..", "https:///x.csv", "https://host/a.csv md5=1"]
)
def test_a_line_that_is_no_address_is_named_by_number(line: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(f"# rows\n\n{line}\n")
    with pytest.raises(InvalidConfig, match=r"urls.txt:3"):
        read_list(tmp_path / "urls.txt")


def test_lists_addresses_and_files_make_one_upload(site: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(
        f"# two\n{site}/plain/a.jsonl sha256={sha256(BODY).hexdigest()}\n{site}/plain/b.jsonl\n"
    )
    (tmp_path / "dataset.yaml").write_text("min_rows: 1\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sources = [f"@{tmp_path / 'urls.txt'}", f"{site}/plain/c.jsonl", str(tmp_path / "dataset.yaml")]
    assert sorted(collect(sources, scratch).files) == ["a.jsonl", "b.jsonl", "c.jsonl", "dataset.yaml"]
