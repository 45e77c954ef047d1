"""A machine-learning model behind a typed HTTP API.

This package belongs to the template: do not edit it, because `copier update` replaces it. Your own
code goes into the package `custom` beside it.
"""

import os

# Since 1.29, ONNX Runtime sends usage reports by default. It reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
