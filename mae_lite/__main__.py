"""``python -m mae_lite`` is ``mae-lite``."""

from mae_lite.cli import main

raise SystemExit(main())
