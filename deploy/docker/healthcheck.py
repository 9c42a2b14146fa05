"""Exit with 0 if the server in this container answers its health check, and with 1 otherwise.

Set the environment variable HEALTHCHECK_URL if the server runs with --tls-certificate (https://) or
with another --port.
"""

import os
import ssl
import sys
import urllib.request

_URL = os.environ.get("HEALTHCHECK_URL", "http://127.0.0.1:8501/healthz")
_SECONDS = 4  # less than the timeout of HEALTHCHECK


def main() -> None:
    """Request the URL once.

    The certificate is not verified, because it names the host of the server and not 127.0.0.1.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    proxies = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(proxies, urllib.request.HTTPSHandler(context=context))
    try:
        opener.open(_URL, timeout=_SECONDS).close()
    except OSError as error:
        sys.exit(f"{_URL}: {error}")


if __name__ == "__main__":
    main()
