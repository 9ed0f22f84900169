"""A wire that can be cut: a proxy in front of a server, which drops connections after so many bytes."""

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit


class Wire:
    """Forwards to ``address``; ``cuts`` holds how many bytes of answers may still pass before each of the next cuts."""

    def __init__(self, address: str):
        self.target = (urlsplit(address).hostname, urlsplit(address).port)
        self.cuts: list[int] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self.target)
                threading.Thread(target=self._forward, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._forward, args=(far, near, True), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and self.cuts:
                    self.cuts[0] -= len(data)
                    if self.cuts[0] < 0:
                        self.cuts.pop(0)
                        break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
