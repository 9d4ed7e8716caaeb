"""The build hook of hatchling: compiles the native twins where a compiler is.

With the library the wheel is one for its platform and every Python, without it a pure one.
``MI_METRICS_KERNELS=0`` builds without, ``MI_METRICS_KERNELS=1`` refuses to.

A hook and not scikit-build-core: that would bring CMake and Ninja into every build from source, and
has no wheel to offer where no compiler is.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledTwins(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the library into the source tree, from where an editable install takes it, too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected; called for wheels, editable ones too."""
        build = self._builder()
        wanted = os.environ.get("MI_METRICS_KERNELS")
        if wanted == "0":
            failure = "MI_METRICS_KERNELS=0"
            if version == "editable":
                build.LIBRARY.unlink(missing_ok=True)
        else:
            # Each extra that is installed later installs the package anew.
            current = version == "editable" and build.is_current()
            failure = None if current else build.build()
        if failure is not None:
            if wanted == "1":
                raise RuntimeError(f"The compiled functions could not be built: {failure}")
            self.app.display_warning(f"Built without the compiled functions: {failure}")
            return
        build_data["artifacts"].append(f"/mi_metrics/kernels/{build.NAME}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{build.platform_tag()}"

    def _builder(self) -> ModuleType:
        """Return mi_metrics/kernels/build.py, which runs without the package."""
        path = Path(self.root, "mi_metrics", "kernels", "build.py")
        spec = importlib.util.spec_from_file_location("build_twins", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
