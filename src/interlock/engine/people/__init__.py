"""The people around a run: who approves, who answers, who grants and who trusts."""
