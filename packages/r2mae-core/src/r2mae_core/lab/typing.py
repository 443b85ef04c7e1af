"""`override`, which Python's own typing has from 3.12 on, without a dependency of the samplers."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import override
elif sys.version_info >= (3, 12):
    from typing import override
else:

    def override(method):  # noqa: ANN001, ANN201
        """Return the method."""
        return method


__all__ = ["override"]
