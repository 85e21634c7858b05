"""The people around a run: who approves, who answers, and who grants."""
