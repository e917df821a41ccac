"""The question that probes ask: is the service on this host ready?"""

import http.client

TIMEOUT_SECONDS = 2.0


def ask_ready(address: str, port: int) -> tuple[bool, str]:
    """Asks /readyz on a metrics port; gives the answer, and one line that says it."""
    host = {"::": "localhost", "0.0.0.0": "127.0.0.1"}.get(address, address)  # noqa: S104
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    where = f"http://{connection.host}:{port}/readyz"
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        said = response.read(200).decode("ascii", "replace").strip().splitlines()
    except (OSError, http.client.HTTPException) as error:
        return False, f"not ready: {where}: {error or type(error).__name__}"
    finally:
        connection.close()
    if response.status == http.client.OK:
        return True, "ready"
    return False, f"not ready: {where}: {response.status} {said[0] if said else ''}".rstrip()
