"""Who runs a flow: Metaflow refuses root, but a container has no other user. Imported before metaflow."""

import os

if os.environ.get("USER", "root") in ("", "root"):
    os.environ.setdefault("METAFLOW_USER", "mobilevd")
