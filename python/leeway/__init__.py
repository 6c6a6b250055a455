"""Leeway from Python: export a model, serve it in a test, and ask it.

    leeway.export(pipeline, X, y, "models/churn")          # a framework's model becomes a version of Leeway
    leeway.Client("http://127.0.0.1:8080")                 # asks a server; AsyncClient is the same for asyncio
    leeway.testing.serve("models")                         # a server for tests

The server itself is the program `leeway`, which `pip` installs as a command. docs/python.md has examples of everything.
The module needs only the standard library until a model is exported: frameworks and converters are imported then.
"""

from leeway import rows, testing
from leeway.async_client import AsyncClient
from leeway.client import Client
from leeway.errors import (
    Conflict,
    DeadlineExceeded,
    ExportFailed,
    InvalidInput,
    LeewayError,
    NotFound,
    ParityFailed,
    Problem,
    Refused,
    ServerFailed,
    Unauthorized,
    Unreachable,
)
from leeway.executable import program
from leeway.exporting import export
from leeway.exporting.version import Exported
from leeway.protocol import Answer, FeedbackResult, ModelVersion, Outcome, Retries

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "ExportFailed",
    "Exported",
    "FeedbackResult",
    "InvalidInput",
    "LeewayError",
    "ModelVersion",
    "NotFound",
    "Outcome",
    "ParityFailed",
    "Problem",
    "Refused",
    "Retries",
    "ServerFailed",
    "Unauthorized",
    "Unreachable",
    "export",
    "program",
    "rows",
    "testing",
]
