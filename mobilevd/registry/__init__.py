"""What was trained and what is champion: runs and versions in MLflow, and the ledger of switches."""
