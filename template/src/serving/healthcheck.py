"""Ask the API on this machine whether it is ready; the exit status is the answer.

For the image's HEALTHCHECK, which has no curl: nothing but the standard library is imported.
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
