"""The paper's mechanisms, one file each; each edits a VideoUNet and returns the log entry that replays the edit."""
