"""The question that probes ask: is the service on this host ready?"""

import http.client
from collections.abc import Sequence
from threading import Thread

TIMEOUT_SECONDS = 3.0
"""For the whole answer, however it trickles in."""


def ask_ready(address: str, port: int) -> tuple[bool, str]:
    """Asks /readyz on a metrics port; gives the answer, and one line that says it."""
    # By number: a name needs /etc/hosts, which a bare image may not have.
    hosts = {"::": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",)}.get(address, (address,))  # noqa: S104
    answers: list[str] = []
    # http.client's time limit holds for each read alone; a thread can be left behind.
    asking = Thread(target=lambda: answers.append(_ask_any(hosts, port)), daemon=True)
    asking.start()
    asking.join(TIMEOUT_SECONDS)
    answer = answers[0] if answers else "timed out"
    if answer == "ready":
        return True, answer
    # Whoever answers there need not be echod: what it says is shown escaped, cut, on one line.
    shown = ascii(" ".join(answer.split()))[1:-1][:200]
    host = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    return False, f"not ready: http://{host}:{port}/readyz: {shown}"


def _ask_any(hosts: Sequence[str], port: int) -> str:
    """The answer of the first host that is there; if none is, what the first one's lack is."""
    problems = []
    for host in hosts:
        try:
            return _ask(host, port)
        except OSError as error:
            problems.append(str(error) or type(error).__name__)
    return problems[0]


def _ask(host: str, port: int) -> str:
    """What is answered: ``ready``, or what is wrong. Raises OSError if nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        if response.getheader("Server") != "echod":
            return f"{response.status} from something that is not echod"
        if response.status == http.client.OK:
            return "ready"
        return f"{response.status} {response.read(200).decode('ascii', 'replace')}"
    except http.client.HTTPException as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
