"""Where a payload runs. ``local`` starts processes on this machine; every launcher keeps the promises of
``base.Launcher``.
"""

from ftplatform.launchers.base import Handle, Launcher, Running, Status
from ftplatform.launchers.local import LocalLauncher

__all__ = ["Handle", "Launcher", "LocalLauncher", "Running", "Status"]
