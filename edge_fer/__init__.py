"""edge-fer: facial expression recognition that runs fast, and honestly, on a laptop."""

import os as _os

__version__ = "0.1.0"

# Nothing leaves the machine: ONNX Runtime's wheels for Linux and macOS write a device id to the home folder and report
# sessions to its vendor from the moment it is loaded, and only the environment can stop that (its API acts too late).
# Both names have been in use. A user who sets one of them decides for themselves.
for _name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):
    _os.environ.setdefault(_name, "1")
