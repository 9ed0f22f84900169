"""What Metaflow is told before it is imported: who runs a flow, and where its notes of runs and its cards lie."""

import os

from mobilevd.places import project_root

ELSEWHERE = ("METAFLOW_KUBERNETES_WORKLOAD", "AWS_BATCH_JOB_ID")  # there Metaflow sends home what lies where it works

if os.environ.get("USER", "root") in ("", "root"):  # Metaflow refuses root, but a container has no other user
    os.environ.setdefault("METAFLOW_USER", "mobilevd")
if not any(name in os.environ for name in ELSEWHERE):  # as the runs, wherever the flow is called from
    root = os.environ.setdefault("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(project_root()))
    # a place is all that counts: with one given, Metaflow 2.19 has cards beside the notes; without, it looks from here
    os.environ.setdefault("METAFLOW_CARD_LOCALROOT", os.path.join(root, ".metaflow"))
