"""Check whether the API on this machine is ready; exits with status 0 if it is.

Used by the image's HEALTHCHECK, because the image has no curl. It needs only the standard library.
"""

import os
import sys
import urllib.request


def main() -> int:
    """Return 0 when `/ready` answers 200 within two seconds, else 1."""
    url = f"http://127.0.0.1:{os.environ.get('PORT') or '8000'}/ready"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2):
            return 0
    except OSError as exc:
        print(f"{url}: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
