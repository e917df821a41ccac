"""The question that probes ask: is the service on this host ready?"""

import http.client

TIMEOUT_SECONDS = 2.0


def ask_ready(address: str, port: int) -> tuple[bool, str]:
    """Asks /readyz on a metrics port; gives the answer, and one line that says it."""
    host = {"::": "localhost", "0.0.0.0": "127.0.0.1"}.get(address, address)  # noqa: S104
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        if response.status == http.client.OK:
            return True, "ready"
        said = f"{response.status} {response.read(200).decode('ascii', 'replace')}"
    except (OSError, http.client.HTTPException) as error:
        said = str(error) or type(error).__name__
    finally:
        connection.close()
    # Whoever answers there need not be echod: what it says is shown escaped, cut, on one line.
    shown = ascii(" ".join(said.split()))[1:-1][:200]
    return False, f"not ready: http://{connection.host}:{port}/readyz: {shown}"
