"""The server of a page that follows runs."""

import http.client
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_folders import write_run

from lightning_rlhf.report.follow import Live, followed, make_server, stamp_of
from lightning_rlhf.report.links import readable


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "run")
    write_run(run / "sft", "sft")
    (run / "model").mkdir()
    (run / "model" / "config.json").touch()
    (tmp_path / "secret.txt").write_text("secret")
    return run


@pytest.fixture
def server(run: Path) -> Iterator[tuple[str, int]]:
    made: list[str] = []

    def make(stamp: str) -> str:
        made.append(stamp)
        return followed(f"<body>page {len(made)}</body>", stamp, 2.0)

    live = Live(make, lambda: stamp_of([run]))
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(listener, live, lambda: readable([run], run))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield listener.getsockname()
    server.shutdown()
    thread.join()
    server.server_close()


def get(server: tuple[str, int], path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*server, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_page_carries_the_stamp_that_the_server_has_until_a_run_writes(server: tuple[str, int], run: Path) -> None:
    stamp = get(server, "/stamp")[1]
    assert get(server, "/") == (200, f'<body data-stamp="{stamp}" data-every="2">page 1</body>')
    # Nothing has changed, so the page is not made again.
    assert "page 1" in get(server, "/")[1]
    (run / "sft" / "metrics.csv").write_text("epoch,step\n")
    news = get(server, "/stamp")[1]
    assert news != stamp
    assert get(server, "/") == (200, f'<body data-stamp="{news}" data-every="2">page 2</body>')


def test_a_file_that_is_written_again_with_the_same_size_is_news(run: Path) -> None:
    before = stamp_of([run])
    status = (run / "result.json").stat()
    os.utime(run / "result.json", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert stamp_of([run]) != before


def test_the_server_gives_the_texts_of_the_run_and_nothing_else(server: tuple[str, int], run: Path) -> None:
    assert get(server, "/sft/result.json") == (200, (run / "sft" / "result.json").read_text())
    for path in ("/model/config.json", "/../secret.txt", "/%2e%2e/secret.txt", "//etc/passwd", "/sft/../../secret.txt"):
        assert get(server, path)[0] == 404


def test_a_page_of_another_site_cannot_read_from_a_local_server(server: tuple[str, int]) -> None:
    assert get(server, "/", Host="attacker.example")[0] == 403
    assert get(server, "/stamp", Host="attacker.example:80")[0] == 403
    assert get(server, "/", Host="[")[0] == 403
    assert get(server, "/", Host=f"localhost:{server[1]}")[0] == 200


def test_a_browser_that_goes_away_leaves_no_traceback_in_the_terminal(
    server: tuple[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        # Closing with this option resets the connection instead of ending it in order.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert get(server, "/stamp")[0] == 200
    time.sleep(0.2)
    assert "Traceback" not in capsys.readouterr().err
