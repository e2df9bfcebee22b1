"""`python -m gateway.healthcheck`: whether the gateway on this machine is ready."""

import ssl
import sys
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from gateway.config.settings import SettingsError, read_settings

TIMEOUT_S = 2.0


def main() -> int:
    """Ask `/readyz`; return 0 if it is ready, else print the reason and return 1."""
    context = ssl.create_default_context()
    context.check_hostname = False  # the certificate is for the name that others know
    context.verify_mode = ssl.CERT_NONE
    ask = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        ask.open(f"{read_settings().gateway_url}/readyz", timeout=TIMEOUT_S).close()
    except (OSError, SettingsError) as error:
        sys.stdout.write(f"not ready: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
