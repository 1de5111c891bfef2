"""The one place where OpenVINO is imported, with its telemetry off."""

import sys
from types import ModuleType


def openvino_modules() -> tuple[ModuleType, ModuleType]:
    """Return (openvino, openvino_genai).

    `import openvino` sends usage data unless a consent file says no, and the documented opt-out
    (`opt_in_out --opt_out`) itself sends an event and writes to the home folder. openvino falls back to an inert stub
    where `openvino_telemetry` cannot be imported, so its import is blocked in this process, before openvino's.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # None is how Python spells "not importable"
    import openvino
    import openvino_genai

    return openvino, openvino_genai
